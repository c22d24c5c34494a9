"""Pseudo-labels: untranscribed speech with the text that a model reads in it, where the model is sure.

One round of self-training (Q. Xie et al., "Self-training with noisy student improves ImageNet classification", 2020; J. Kahn
et al., "Self-training for end-to-end speech recognition", 2020): the student hears the same audio augmented, and
more of it than the teacher had texts for.  The teacher reads with its whole context and its language model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from samba_asr.audio.read import AudioError
from samba_asr.data.dataset import AudioStore
from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer, Result

logger = logging.getLogger(__name__)


class Label(NamedTuple):
    text: str
    confidence: float  # mean of the words'; 0 where nothing was heard


def labels(
    recognizer: Recognizer, utterances: Sequence[Utterance], cache: Path, tell: Callable[[int], None] = lambda n: None
) -> dict[str, Label]:
    """Labels by the ids of the utterances.  Each is appended to `cache` (JSONL) as it is made, and not made again.

    tell: called with the number that are done.  UserError for a cache that is none, or of another model or search.
    """
    by = {"model": str(recognizer.folder), "decode": asdict(recognizer.decode)}
    found = _cached(cache, by)
    done = {u.id: n for n, u in enumerate(utterances, 1)}
    with cache.open("a", encoding="utf-8") as file:
        if not found:
            file.write(json.dumps(by) + "\n")
        for utterance, result in recognised(recognizer, [u for u in utterances if u.id not in found]):
            sure = [word.confidence for word in result.words]
            label = Label(result.text, round(sum(sure) / len(sure), 4) if sure else 0.0)
            found[utterance.id] = label
            file.write(json.dumps({"id": utterance.id, **label._asdict()}) + "\n")
            file.flush()
            tell(done[utterance.id])
    return {u.id: found[u.id] for u in utterances if u.id in found}


def recognised(
    recognizer: Recognizer, utterances: Iterable[Utterance], latency_ms: float | None = None
) -> Iterator[tuple[Utterance, Result]]:
    """Each with what is heard in it; those whose audio cannot be read are reported and left out."""
    store = AudioStore(recognizer.rate, cache=False)
    for utterance in utterances:
        try:
            samples = store.load(utterance)
        except AudioError as error:
            logger.warning("%s is left out: %s", utterance.id, error)
            continue
        yield utterance, recognizer.recognise(samples, latency_ms=latency_ms)


def _cached(path: Path, by: dict[str, Any]) -> dict[str, Label]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found, number = {}, 0
    try:
        for number, line in enumerate(lines, 1):
            entry = json.loads(line)
            if number > 1 or "model" not in entry:
                found[entry["id"]] = Label(str(entry["text"]), float(entry["confidence"]))
            elif entry != by:
                break
        else:
            return found
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}:{number}: not a label: delete the file, and they are made anew") from None
    raise UserError(f"{path} holds labels of another model or search ({entry['model']}): delete it, or choose another --out")
