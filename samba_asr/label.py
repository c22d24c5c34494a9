"""Pseudo-labels: untranscribed speech with the text that a model recognizes, where the model is confident.

One round of self-training (Q. Xie et al., "Self-training with noisy student improves ImageNet classification", 2020; J. Kahn
et al., "Self-training for end-to-end speech recognition", 2020): the student trains on the same audio, augmented, and on
more audio than the teacher had texts for.  The teacher is a model of this toolkit, offline and with its language model, or
a Whisper; even tiny.en makes fewer errors than a model trained on few hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError
from samba_asr.evaluation.testset import samples
from samba_asr.recognizer import Recognizer
from samba_asr.text.normalize import upper
from samba_asr.text.numbers import spoken
from samba_asr.whisper import RATE, TINY, Whisper


class Label(NamedTuple):
    """A pseudo-label of one utterance."""

    text: str
    confidence: float  # mean over words, or over tokens; 0 if nothing was recognized


class Teacher(Protocol):
    """Interface of a model that labels utterances."""

    @property
    def rate(self) -> int:
        """Samples per second of its input."""
        ...

    @property
    def by(self) -> Mapping[str, Any]:
        """The model under "model", and everything else that its labels depend on; JSON."""
        ...

    def label(self, samples: np.ndarray) -> Label: ...


class OwnTeacher:
    """A model of this toolkit, offline and with its language model."""

    def __init__(self, recognizer: Recognizer):
        self.recognizer, self.rate = recognizer, recognizer.rate
        self.by = {"model": str(recognizer.folder), "decode": asdict(recognizer.decode)}

    def label(self, samples: np.ndarray) -> Label:
        result = self.recognizer.recognize(samples)
        sure = [word.confidence for word in result.words]
        return Label(result.text, round(sum(sure) / len(sure), 4) if sure else 0.0)


class WhisperTeacher:
    """Whisper, with numbers as words and the rest in LibriSpeech's alphabet."""

    rate = RATE

    def __init__(self, device: str = "cpu", threads: int = 1, folder: Path | None = None):
        """folder: of a Whisper other than tiny.en."""
        spoken("")  # raises here, before the work, if its package is missing
        self.whisper = Whisper(device, threads, folder)
        self.by = {"model": f"whisper {self.whisper.name}"}
        if self.whisper.sha256 != TINY:
            self.by["sha256"] = self.whisper.sha256

    def label(self, samples: np.ndarray) -> Label:
        reading = self.whisper.read(samples)
        return Label(upper(spoken(reading.text)), round(reading.confidence, 4))


def labels(
    teacher: Teacher, utterances: Sequence[Utterance], cache: Path, report: Callable[[int], None] = lambda n: None
) -> dict[str, Label]:
    """Label utterances; return labels by utterance id.  Each new label is appended to `cache` (JSONL), and later reused.

    report: called with the number of utterances done.  UserError if `cache` is not a cache, or is of another model or search.
    """
    found = _cached(cache, dict(teacher.by))
    with cache.open("a", encoding="utf-8") as file:
        if not found:
            file.write(json.dumps(teacher.by) + "\n")
        places = {u.id: n for n, u in enumerate(utterances, 1)}
        for utterance, audio in samples((u for u in utterances if u.id not in found), teacher.rate):
            found[utterance.id] = label = teacher.label(audio)
            file.write(json.dumps({"id": utterance.id, **label._asdict()}) + "\n")
            file.flush()
            report(places[utterance.id])
    return {u.id: found[u.id] for u in utterances if u.id in found}


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
        raise UserError(f"{path}:{number}: not a label: delete the file, and its labels are made again") from None
    raise UserError(
        f"{path} holds labels of another model or search ({entry['model']}): delete it, or choose another --out"
    )
