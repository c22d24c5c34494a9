"""Measure the word errors that missing audio causes: lost packets, and pauses that a gate (decode.vad) leaves out.

    python egs/bench/missing.py dev.jsonl [--every N] [--latency-ms 640] [--model english]

Packets are lost in bursts of 200 ms.  The session is told of them (`Session.gap`), or hears silence in their place.
For the gate, utterances of a reader are joined with pauses of five seconds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from samba_asr import Recognizer
from samba_asr.data.manifest import Utterance
from samba_asr.evaluation.testset import read_testset, samples
from samba_asr.metrics.wer import WerReport, compare, score
from samba_asr.stream import Stream

BURST, PAUSE = 0.2, 5.0  # seconds
JOINED = 5  # utterances with pauses between them
FLOOR = 3e-4  # noise of a pause, relative to full scale: -70 dB

Feed = Callable[[Stream, np.ndarray, int], None]  # stream, samples (s,), samples a second


def packets(n: int, rate: int, share: float, seed: int) -> Iterator[tuple[slice, bool]]:
    """Cut n samples into packets of `BURST`; each is lost with probability `share`."""
    rng, size = np.random.default_rng(seed), round(BURST * rate)
    for at in range(0, n, size):
        yield slice(at, min(at + size, n)), bool(rng.random() < share)


def lossy(share: float, told: bool) -> Feed:
    """Feed audio with losses; told: by `Stream.gap`, else as silence."""

    def feed(stream: Stream, audio: np.ndarray, rate: int) -> None:
        for where, lost in packets(len(audio), rate, share, seed=len(audio)):
            part = audio[where]
            if lost and told:
                stream.gap(len(part) / rate)
            else:
                stream.accept(np.zeros_like(part) if lost else part)

    return feed


def texts(
    recognizer: Recognizer, heard: Sequence[tuple[Utterance, np.ndarray]], latency_ms: float | None, feed: Feed
) -> dict[str, str]:
    """Recognize each utterance."""
    found = {}
    for utterance, audio in heard:
        stream = recognizer.stream(latency_ms=latency_ms)
        feed(stream, audio, recognizer.rate)
        found[utterance.id] = stream.finish().text
    return found


def joined(heard: Sequence[tuple[Utterance, np.ndarray]], rate: int) -> list[tuple[Utterance, np.ndarray]]:
    """Join utterances of each reader, with pauses."""
    rng, found = np.random.default_rng(0), []
    for _, group in itertools.groupby(heard, key=lambda pair: pair[0].speaker):
        readers = list(group)
        for first in range(0, len(readers), JOINED):
            some, parts = readers[first : first + JOINED], []
            for _, audio in some:
                parts += [audio, (FLOOR * rng.standard_normal(round(PAUSE * rate))).astype(np.float32)]
            text = " ".join(utterance.text for utterance, _ in some)
            found.append((replace(some[0][0], text=text), np.concatenate(parts)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="manifest of a test set")
    parser.add_argument("--every", type=int, default=1, help="take every N-th utterance (default: all)")
    parser.add_argument("--latency-ms", type=float, help="of live recognition (default: whole utterances)")
    parser.add_argument("--model", default="english", help="model folder (default: english)")
    args = parser.parse_args()
    settings = ["decode.runtime.backend=torch"]  # graphs take no gaps
    recognizer = Recognizer.load(args.model, settings=settings)
    heard = list(samples(read_testset(Path(args.data))[:: args.every], recognizer.rate))
    truth = {utterance.id: utterance.text for utterance, _ in heard}
    plain = lambda stream, audio, rate: stream.accept(audio)  # noqa: E731
    show("no loss", score(truth, texts(recognizer, heard, args.latency_ms, plain)))
    for share in (0.1, 0.3):
        silence, told = (
            score(truth, texts(recognizer, heard, args.latency_ms, lossy(share, how))) for how in (False, True)
        )
        show(f"{share:.0%} lost, as silence", silence)
        show(f"{share:.0%} lost, told", told)
        d = compare(told, silence)
        print(
            f"    told less silence: {100 * d.difference:+.2f} points [{100 * d.low:+.2f}, {100 * d.high:+.2f}]",
            flush=True,
        )
    pauses = joined(heard, recognizer.rate)
    truth = {utterance.id: utterance.text for utterance, _ in pauses}
    show("pauses", score(truth, texts(recognizer, pauses, args.latency_ms, plain)))
    gated = Recognizer.load(args.model, settings=[*settings, "decode.vad=energy"])
    show("pauses, decode.vad=energy", score(truth, texts(gated, pauses, args.latency_ms, plain)))


def show(name: str, report: WerReport) -> None:
    counts = report.counts
    print(f"{name:28} {counts.errors:5d} errors {100 * report.wer:6.2f} %", flush=True)


if __name__ == "__main__":
    main()
