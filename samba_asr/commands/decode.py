"""`samba-asr decode`: a model over a manifest: hypotheses, word error rate, speed, and the law put to the proof."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from samba_asr import __version__, collector
from samba_asr import config as configs
from samba_asr.commands.search_options import MODEL_HELP
from samba_asr.config import Config
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.decoding.base import Hypothesis, text_of
from samba_asr.errors import UserError
from samba_asr.metrics.report import write_report
from samba_asr.metrics.wer import bootstrap, score
from samba_asr.text.normalize import NAMES, normalizer

if TYPE_CHECKING:
    from samba_asr.data.dataset import Batch
    from samba_asr.recognizer import Recognizer

logger = logging.getLogger(__name__)

LONGEST_CHUNK = 128  # encoder frames, 5.12 s: chunks of the streaming check are 1 .. this, in even shares of log size

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
"""What a model folder's results.json keeps of `results`: nothing that names this machine's folders or the corpus's texts."""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "decode",
        help="recognise a test set and score it",
        description="Recognise every utterance of a manifest and write --out/{hyp,ref}.{txt,trn}, wer.txt, "
        "alignments.txt, confusions.txt and results.json.  The settings that matter are "
        "decode.runtime.latency_ms, decode.search.{method,beam,rescore} and data.batch_seconds.  Status 1 if an utterance "
        "cannot be read (it counts as deleted), or fails --streaming-check.",
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help=MODEL_HELP)
    parser.add_argument("--data", type=Path, required=True, metavar="MANIFEST", help="utterances, JSONL")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME_OR_FILE",
        help="configurations over the model's own: a YAML file, or a name under conf/ such as decode/beam",
    )
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--normalize", choices=NAMES, default="none", help="rules for both texts in scoring (default: %(default)s)"
    )
    parser.add_argument(
        "--streaming-check",
        action="store_true",
        help="also recognise every utterance in chunks of random sizes, and compare",
    )
    parser.add_argument(
        "--nbest",
        type=int,
        metavar="N",
        help="also write the N best of each utterance with scores and words' times to nbest.jsonl; needs the beam",
    )
    parser.add_argument(
        "--record", metavar="NAME", help="put the scores into the model folder's results.json under NAME"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="settings over those, such as decode.search.beam=16",
    )
    parser.set_defaults(run=run)
    return parser


class Recognised(NamedTuple):
    id: str
    nbest: list[Hypothesis]  # best first
    text: str  # of the best
    streamed: str | None  # the text from random chunks; None if it was not asked for
    tie: bool  # the two differ, but not in float64: rounding decides between scores that are as good as equal


def run(args: argparse.Namespace) -> int:
    """0; 1 if some utterance cannot be read, or is recognised differently from chunks."""
    from samba_asr.device import choose_device
    from samba_asr.models.box import box_folder
    from samba_asr.models.folder import load_model, record_result
    from samba_asr.recognizer import Recognizer

    utterances = _read(args.data)
    rules = normalizer(args.normalize)
    args.model = box_folder(args.model)
    _check_folder(args.model)
    device = choose_device(args.device)
    loaded = load_model(args.model, device)
    config = _config(args, loaded.config)
    recognizer = Recognizer(loaded, config.decode, endpoints=False)  # a manifest says where utterances end
    collector.settle()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot make this folder ({error.strerror})") from None

    clock = Clock()
    found = {r.id: r for r in recognise(recognizer, config, utterances, args.streaming_check, clock)}
    if not found:
        raise UserError(f"{args.data}: none of its {len(utterances)} utterances can be read; the reasons are above")
    found = {u.id: found[u.id] for u in utterances if u.id in found}  # back in the order of the manifest
    _write_texts(args.out / "hyp.txt", {r.id: r.text for r in found.values()})
    _write_texts(args.out / "ref.txt", {u.id: u.text for u in utterances})
    if config.decode.search.nbest > 1:
        _write_nbest(args.out / "nbest.jsonl", found.values(), recognizer)

    unread = [u.id for u in utterances if u.id not in found]
    differing = [r for r in found.values() if r.streamed not in (None, r.text) and not r.tie]
    ties = [r for r in found.values() if r.tie]
    results = {
        "data": str(args.data),
        "model": str(args.model),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "decode": dataclasses.asdict(config.decode),
        **_score(args, utterances, {r.id: r.text for r in found.values()}, rules),
        "unreadable": unread,
        **clock.results(),
        **_setting(device),
    }
    if args.streaming_check:
        names = {"differing": [r.id for r in differing], "ties": [r.id for r in ties]}
        results["streaming_check"] = {"utterances": len(found), **names}
        for r in [*differing, *ties]:
            logger.warning("%s: %r from the whole, %r from chunks", r.id, r.text, r.streamed)
        print(f"streaming at random chunk sizes: {len(differing)} of {len(found)} hypotheses differ")
        if ties:
            print(f"{len(ties)} more differ in float32 but not in float64: ties, which rounding decides")
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    if args.record:
        record_result(
            args.model, args.record, {**{k: results[k] for k in RECORDED if k in results}, "data": args.data.stem}
        )
    speed = f"real-time factor {results['rtf']:.4f} ({1 / results['rtf']:.1f} times real time)"
    print(f"{speed}, {results['hardware']}, {results['threads']} threads")
    if unread:
        some = ", ".join(unread[:3]) + (", ..." if len(unread) > 3 else "")
        print(f"not readable, counted as deleted: {len(unread)} of {len(utterances)} utterances ({some})")
    return int(bool(unread or differing))


class Clock:
    """Seconds of audio recognised, and seconds that it took (the streaming check does not count)."""

    def __init__(self):
        self.audio = self.busy = 0.0

    def results(self) -> dict[str, float]:
        return {"audio_seconds": self.audio, "seconds": self.busy, "rtf": self.busy / max(self.audio, 1e-9)}


def recognise(
    recognizer: Recognizer, config: Config, utterances: Sequence[Utterance], check: bool, clock: Clock
) -> Iterator[Recognised]:
    """Those that can be read, the longest first; the others are reported in the log.  In float32."""
    from samba_asr.data.dataset import AudioStore, evaluation_batches

    tokenizer, nbest = recognizer.tokenizer, config.decode.search.nbest
    store = AudioStore(recognizer.rate, cache=False)
    batches = evaluation_batches(utterances, tokenizer, store, batch_seconds=config.data.batch_seconds)
    reported, began, count = time.monotonic(), time.perf_counter(), 0
    for batch in batches:
        if not batch.ids:
            continue
        found = offline(recognizer, batch, nbest)
        clock.busy += time.perf_counter() - began
        texts, streamed = [text_of(some[0], tokenizer) for some in found], [None] * len(batch.ids)
        if check:
            streamed = in_chunks(recognizer, batch)
        ties = [
            check and text != other and equal_in_float64(recognizer, batch.rows(i, i + 1))
            for i, (text, other) in enumerate(zip(texts, streamed, strict=True))
        ]
        clock.audio += float(batch.lengths.sum()) / recognizer.rate
        yield from map(Recognised, batch.ids, found, texts, streamed, ties)
        count += len(batch.ids)
        if time.monotonic() - reported > 30:
            reported = time.monotonic()
            logger.info("%d of %d utterances", count, len(utterances))
        began = time.perf_counter()


def offline(recognizer: Recognizer, batch: Batch, nbest: int) -> list[list[Hypothesis]]:
    """Whole utterances at once."""
    import torch

    search = recognizer.segmenter.search
    with torch.inference_mode():
        frames = recognizer.runtime.forward(batch.audio, batch.lengths, recognizer.latency(None))
        return search.hypotheses(search.finish(search.step(frames, search.init_state(len(batch.ids)))), nbest)


def in_chunks(recognizer: Recognizer, batch: Batch) -> list[str]:
    """The texts of the same as live sessions, fed together with chunks of random sizes, each seeded by its id."""
    import numpy as np

    from samba_asr.data.bucketing import derive_seed
    from samba_asr.session import Final, advance

    stride = recognizer.runtime.stride
    draws = [np.random.default_rng(derive_seed("chunks", name)) for name in batch.ids]
    sessions = [recognizer.session(partials=False) for _ in batch.ids]
    # What does not fill a frame is left out, as the whole utterance leaves it out.
    waiting = [x[: n // stride * stride].numpy() for x, n in zip(batch.audio, batch.lengths.tolist(), strict=True)]
    texts: dict[int, list[str]] = {i: [] for i in range(len(sessions))}
    while not all(session.over for session in sessions):
        for i, (session, rng) in enumerate(zip(sessions, draws, strict=True)):
            n = int(LONGEST_CHUNK ** rng.random()) * stride
            session.feed(waiting[i][:n]) if len(waiting[i]) else session.end()
            waiting[i] = waiting[i][n:]
        advance(recognizer, sessions)
        for i, session in enumerate(sessions):
            texts[i] += [event.segment.text for event in session.events() if isinstance(event, Final)]
    return [" ".join(some) for some in texts.values()]


def equal_in_float64(recognizer: Recognizer, batch: Batch) -> bool:
    """Is one utterance the same from the whole and from chunks where rounding cannot matter?"""
    exact = recognizer.in_float64()
    return [text_of(some[0], exact.tokenizer) for some in offline(exact, batch, 1)] == in_chunks(exact, batch)


# ---- what goes in ----------------------------------------------------------------------------------------------------


def _read(manifest: Path) -> list[Utterance]:
    utterances = read_manifest(manifest)
    if not utterances:
        raise UserError(f"{manifest} is empty: there is nothing to recognise")
    name, n = Counter(u.id for u in utterances).most_common(1)[0]
    if n > 1:
        raise UserError(f"{manifest}: the id {name!r} occurs {n} times; ids are unique in a manifest")
    return utterances


def _check_folder(folder: Path) -> None:
    if not (folder / "model.safetensors").exists() and any(folder.glob("*.pt")):
        raise UserError(
            f"{folder} is the folder of a training run: make a model of it with "
            f"`samba-asr average --exp {folder} --out {folder / 'model'}`, and decode with that"
        )


def _config(args: argparse.Namespace, own: Config) -> Config:
    """The model's configuration, and over it what the command line asks for."""
    # `--config a b key=value`: argparse gives all three to --config
    files = [text for text in args.config if "=" not in text]
    overrides = [text for text in args.config if "=" in text] + args.overrides
    overrides += [] if args.nbest is None else [f"decode.search.nbest={args.nbest}"]
    config = configs.load(files, overrides, folder=args.model)
    if config.model != own.model:
        raise UserError("model.* is what the model was trained with and cannot be changed: override decode.* alone")
    return config


# ---- what comes out --------------------------------------------------------------------------------------------------


def _score(args: argparse.Namespace, utterances: list[Utterance], texts: dict[str, str], rules) -> dict[str, Any]:
    """Print Kaldi's lines, write the report's files; {} where the manifest has no texts to compare with."""
    if not any(u.text for u in utterances):
        print(f"{args.data} has no texts: not scored")
        return {}
    speakers = {u.id: u.speaker for u in utterances if u.speaker}
    references = {u.id: rules(u.text) for u in utterances}
    report = score(references, {name: rules(text) for name, text in texts.items()}, speakers=speakers)
    for line in report.kaldi_lines():
        print(line)
    low, high = (100 * x for x in bootstrap(report))
    print(f"95 % interval [ {low:.2f}, {high:.2f} ], 1000 samples of utterances; normalised by: {args.normalize}")
    write_report(report, args.out)
    c = report.counts
    return {
        "wer": 100 * report.wer,
        "interval": [low, high],
        "ser": 100 * report.ser,
        "errors": c.errors,
        **dataclasses.asdict(c),
        "normalize": args.normalize,
    }


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


def _write_texts(path: Path, texts: dict[str, str]) -> None:
    """Kaldi's `text`: id, words."""
    path.write_text("".join(f"{name} {text}".rstrip() + "\n" for name, text in texts.items()), encoding="utf-8")


def _write_nbest(path: Path, found: Iterable[Recognised], recognizer: Recognizer) -> None:
    """An utterance a line: {id, nbest: [{text, score, share, words: [{word, start}]}]}, best first.

    score in nats; share of the n-best by their scores, 1 in all; start of a word in seconds.
    """
    from samba_asr.decoding.transcript import grouped

    frame, tokenizer = recognizer.frame, recognizer.tokenizer
    with path.open("w", encoding="utf-8") as file:
        for r in found:
            worths = [math.exp(h.score - max(h.score for h in r.nbest)) for h in r.nbest]
            nbest = [
                {
                    "text": text_of(h, tokenizer),
                    "score": round(h.score, 4),
                    "share": round(worth / sum(worths), 4),
                    "words": [
                        {"word": word, "start": round(times[0] * frame, 3)}
                        for word, times in grouped(h.tokens, h.times, tokenizer, h.words)
                    ],
                }
                for h, worth in zip(r.nbest, worths, strict=True)
            ]
            file.write(json.dumps({"id": r.id, "nbest": nbest}, ensure_ascii=False) + "\n")
