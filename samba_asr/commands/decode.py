"""`samba-asr decode`: evaluate a model on a manifest: hypotheses, word error rate, speed, and a check of streaming equality."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samba_asr import __version__, collector
from samba_asr import config as configs
from samba_asr.commands.search_options import MODEL_HELP
from samba_asr.config import Config
from samba_asr.errors import UserError
from samba_asr.text.normalize import NAMES

if TYPE_CHECKING:
    from samba_asr.evaluation.evaluate import Evaluation

logger = logging.getLogger(__name__)

RECORDED = (
    "decode",
    "wer",
    "interval",
    "errors",
    "words",
    "normalize",
    "rtf",
    "hardware",
    "threads",
    "date",
    "samba_asr",
)
"""Fields of `results` that a model folder's results.json keeps: no folder names of this machine, no texts of the corpus."""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "decode",
        help="recognize a test set and score it",
        description="Recognize every utterance of a manifest and write --out/{hyp,ref}.{txt,trn}, wer.txt, "
        "alignments.txt, confusions.txt and results.json.  The main settings are "
        "decode.runtime.latency_ms, decode.search.{method,beam,rescore} and data.batch_seconds.  The status is 1 if an utterance "
        "cannot be read (it counts as deleted), or fails --streaming-check.",
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=MODEL_HELP)
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="utterances, JSONL")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME_OR_FILE",
        help="configurations that override the model's own: a YAML file, or a name under conf/ such as decode/beam",
    )
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--normalize", choices=NAMES, default="none", help="rules for both texts in scoring (default: %(default)s)"
    )
    parser.add_argument(
        "--streaming-check",
        action="store_true",
        help="also recognize every utterance in chunks of random sizes and compare the texts",
    )
    parser.add_argument(
        "--nbest",
        type=int,
        metavar="N",
        help="also write the N best hypotheses of each utterance, with scores and times, to nbest.jsonl; needs beam search",
    )
    parser.add_argument(
        "--lattice",
        choices=("json", "htk"),
        help="also write the word lattice of each utterance to lattices/, as JSON or in HTK's format (SLF), and print how many "
        "errors its best path has; needs beam search with a language model",
    )
    parser.add_argument(
        "--record", metavar="NAME", help="put the scores into the model folder's results.json under NAME"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="settings that override these, such as decode.search.beam=16",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Evaluate; return 0, or 1 if an utterance cannot be read or its text from chunks differs."""
    from samba_asr.device import choose_device
    from samba_asr.evaluation.evaluate import evaluate
    from samba_asr.evaluation.files import write, write_lattices
    from samba_asr.evaluation.testset import read_testset
    from samba_asr.hub import model_folder
    from samba_asr.models.folder import load_model, record_result
    from samba_asr.recognizer import Recognizer

    utterances = read_testset(args.data)
    args.model = model_folder(args.model, writes="--record" if args.record else "")
    _check_folder(args.model)
    device = choose_device(args.device)
    loaded = load_model(args.model, device)
    config = _config(args, loaded.config)
    recognizer = Recognizer(loaded, config.decode)
    collector.settle()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot make this folder ({error.strerror})") from None

    found = evaluate(
        recognizer,
        utterances,
        normalize=args.normalize,
        batch_seconds=config.data.batch_seconds,
        streaming_check=args.streaming_check,
        lattices=bool(args.lattice),
        name=str(args.data),
    )
    write(found, args.out, recognizer)
    if args.lattice:
        write_lattices(args.out / "lattices", found, args.lattice, recognizer.frame)
    results = {
        "data": str(args.data),
        "model": str(args.model),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "decode": dataclasses.asdict(config.decode),
        **found.scores(),
        "unreadable": list(found.unreadable),
        "audio_seconds": found.audio_seconds,
        "seconds": found.seconds,
        "rtf": found.rtf,
        **_setting(device),
    }
    if found.streaming is not None:
        names = {"differing": [d.id for d in found.differing], "ties": [d.id for d in found.ties]}
        results["streaming_check"] = {"utterances": len(found.recognized), **names}
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    if args.record:
        kept = {key: results[key] for key in RECORDED if key in results}
        record_result(args.model, args.record, {**kept, "data": args.data.stem})
    _print(args, found, results)
    return int(bool(found.unreadable or found.differing))


def _print(args: argparse.Namespace, found: Evaluation, results: dict[str, Any]) -> None:
    if found.report and found.interval:
        for line in found.report.kaldi_lines():
            print(line)
        low, high = found.interval
        print(f"95 % interval [ {low:.2f}, {high:.2f} ], 1000 samples of utterances; normalized by: {args.normalize}")
    else:
        print(f"{args.data} has no texts, so there is no score")
    if args.lattice:
        arcs = sum(len(r.lattice.start) for r in found.recognized.values() if r.lattice is not None)
        words = sum(len(text.split()) for text in found.texts.values())
        about = f"word lattices: {arcs / max(words, 1):.1f} arcs for each word of the texts"
        print(f"{about}, {found.oracle:.2f} % errors in the best paths" if found.report else about)
    if found.streaming is not None:
        for d in (*found.differing, *found.ties):
            logger.warning("%s: %r from the whole, %r from chunks", d.id, d.whole, d.chunks)
        print(f"streaming at random chunk sizes: {len(found.differing)} of {len(found.recognized)} hypotheses differ")
        if found.ties:
            print(f"{len(found.ties)} more differ in float32 but not in float64: these are ties, decided by rounding")
    speed = f"real-time factor {found.rtf:.4f} ({1 / found.rtf:.1f} times real time)"
    print(f"{speed}, {results['hardware']}, {results['threads']} threads")
    if unread := found.unreadable:
        some = ", ".join(unread[:3]) + (", ..." if len(unread) > 3 else "")
        print(f"not readable, counted as deleted: {len(unread)} of {len(found.utterances)} utterances ({some})")


def _check_folder(folder: Path) -> None:
    if not (folder / "model.safetensors").exists() and any(folder.glob("*.pt")):
        raise UserError(
            f"{folder} is the folder of a training run: make a model folder with "
            f"`samba-asr average --exp {folder} --out {folder / 'model'}`, and decode with that"
        )


def _config(args: argparse.Namespace, own: Config) -> Config:
    """Return the model's configuration with the overrides of the command line."""
    # `--config a b key=value`: argparse gives all three to --config
    files = [text for text in args.config if "=" not in text]
    overrides = [text for text in args.config if "=" in text] + args.overrides
    overrides += [] if args.nbest is None else [f"decode.search.nbest={args.nbest}"]
    config = configs.load(files, overrides, folder=args.model)
    if config.model != own.model:
        raise UserError("model.* was fixed in training and cannot be changed: override only decode.*")
    return config


def _setting(device) -> dict[str, Any]:
    import torch

    from samba_asr.bench.measure import hardware

    return {
        "hardware": f"{device} ({hardware(str(device))})",
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "samba_asr": __version__,
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
