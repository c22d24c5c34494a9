"""Files of an evaluation: texts in Kaldi's format, the report, the n-best lists."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from samba_asr.decoding import lattice_files
from samba_asr.decoding.base import text_of
from samba_asr.decoding.transcript import grouped
from samba_asr.evaluation.evaluate import Evaluation, Recognized
from samba_asr.metrics.report import write_report
from samba_asr.recognizer import Recognizer


def write(found: Evaluation, folder: Path, recognizer: Recognizer) -> None:
    """Write hyp.txt, ref.txt and, if the test set has texts, the files of `write_report`.

    With decode.search.nbest above 1 also write nbest.jsonl.  recognizer: the one that made the hypotheses.
    """
    write_texts(folder / "hyp.txt", found.texts)
    write_texts(folder / "ref.txt", {u.id: u.text for u in found.utterances})
    if found.report:
        write_report(found.report, folder)
    if recognizer.decode.search.nbest > 1:
        write_nbest(folder / "nbest.jsonl", found.recognized.values(), recognizer)


def write_lattices(folder: Path, found: Evaluation, form: str, frame: float) -> None:
    """Write the word lattice of each utterance, lattices/ID.json or .slf.  frame: seconds of an encoder frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for r in found.recognized.values():
        if r.lattice is not None:
            path = folder / f"{quote(r.id, safe=' ')}.{lattice_files.SUFFIXES[form]}"  # an id may hold a slash
            path.write_text(lattice_files.render(r.lattice, r.id, form, frame), encoding="utf-8")


def write_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Write Kaldi's `text`: id, words."""
    path.write_text("".join(f"{name} {text}".rstrip() + "\n" for name, text in texts.items()), encoding="utf-8")


def write_nbest(path: Path, found: Iterable[Recognized], recognizer: Recognizer) -> None:
    """Write one line for each utterance: {id, nbest: [{text, score, share, words: [{word, start}]}]}, best first.

    score: nats.  share: of the list by score; they sum to 1.  start: seconds.
    """
    frame, tokenizer = recognizer.frame, recognizer.tokenizer
    with path.open("w", encoding="utf-8") as file:
        for r in found:
            best = max(h.score for h in r.nbest)
            weights = [math.exp(h.score - best) for h in r.nbest]
            nbest = [
                {
                    "text": text_of(h, tokenizer),
                    "score": round(h.score, 4),
                    "share": round(weight / sum(weights), 4),
                    "words": [
                        {"word": word, "start": round(times[0] * frame, 3)}
                        for word, times in grouped(h.tokens, h.times, tokenizer, h.words)
                    ],
                }
                for h, weight in zip(r.nbest, weights, strict=True)
            ]
            file.write(json.dumps({"id": r.id, "nbest": nbest}, ensure_ascii=False) + "\n")
