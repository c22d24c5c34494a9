"""Measure hotwords: recall and false alarms of rare words, with 10, 100 and 1,000 phrases.

    python egs/bench/hotwords.py dev.jsonl [--every N] [--model english]

The phrases are the words of the transcripts that the language model finds rarest, at most 100.  The others are words of the
language model that occur in no transcript.  Each utterance is recognized whole.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np

from samba_asr import Recognizer
from samba_asr.decoding.ngram import read_ngram
from samba_asr.evaluation.testset import read_testset, samples
from samba_asr.metrics.wer import score

RARE = 100  # words of the transcripts, at most


def rarest(words: Counter[str], log_probs: dict[str, float], count: int) -> list[str]:
    """Return the words of the lowest unigram probability; unknown ones first."""
    return sorted(words, key=lambda word: (log_probs.get(word, -np.inf), word))[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="manifest of a test set")
    parser.add_argument("--every", type=int, default=1, help="take every N-th utterance (default: all)")
    parser.add_argument("--model", default="english", help="model folder (default: english)")
    args = parser.parse_args()
    recognizer = Recognizer.load(args.model)
    heard = list(samples(read_testset(args.data)[:: args.every], recognizer.rate))
    truth = {utterance.id: utterance.text for utterance, _ in heard}
    said = Counter(word for text in truth.values() for word in text.split())
    model = read_ngram(recognizer.folder / recognizer.decode.lm.path)
    scores, _ = model.score([()] * len(model.ids), list(model.ids.values()))
    unigrams = {word: float(x) for word, x in zip(model.ids, scores, strict=True) if word.isalpha()}
    rare = rarest(said, unigrams, RARE)
    others = [word for word in unigrams if word not in said and len(word) > 3]
    others = [others[i] for i in np.random.default_rng(0).permutation(len(others))]
    print(
        f"{len(heard)} utterances; {sum(word not in unigrams for word in rare)} of the rare words are in no vocabulary"
    )
    for count in (0, 10, 100, 1000):
        phrases = [*rare[:count], *others[: max(0, count - len(rare))]]
        began, texts = time.process_time(), {}
        hotwords = recognizer.hotwords(phrases) if phrases else None
        for utterance, audio in heard:
            stream = recognizer.stream(hotwords=hotwords)
            stream.accept(audio)
            texts[utterance.id] = stream.finish().text
        seconds = time.process_time() - began
        report = score(truth, texts)
        line = f"{count:5d} phrases: {report.counts.errors} errors, {100 * report.wer:.2f} %, {seconds:.0f} s of CPU"
        for name, words in (("10 rarest", rare[:10]), ("100 rarest", rare), ("not said", phrases[len(rare) :])):
            found = [found_words(truth[i].split(), texts[i].split(), set(words)) for i in truth]
            hits, alarms = sum(f[0] for f in found), sum(f[1] for f in found)
            total = sum(said[word] for word in words)
            line += f"; {name}: {hits} of {total} found, {alarms} false alarms"
        print(line, flush=True)


def found_words(reference: list[str], hypothesis: list[str], words: set[str]) -> tuple[int, int]:
    """Return how many of `words` are found, and how many are written but not said (by counts in the utterance)."""
    said = Counter(word for word in reference if word in words)
    written = Counter(word for word in hypothesis if word in words)
    return (said & written).total(), (written - said).total()


if __name__ == "__main__":
    main()
