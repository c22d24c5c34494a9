"""Distillation targets: frames of a teacher for each utterance, which an encoder learns to predict besides its texts.

A. Romero et al., "FitNets: hints for thin deep nets", 2015: a small model generalizes better if it learns the hidden
representations of a large one, not only its outputs.  H.-J. Chang et al., "DistilHuBERT", 2022, do it with speech.  A teacher
trained on many voices gives hundreds of numbers for each 40 ms; a transcript gives a few dozen words in all.  The folder holds

    teacher.json    "teacher": its name, "width": its channels, "mean" and "deviation" of each
    *.npy           one utterance each, (t, w) float16, one frame per 40 ms
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from samba_asr.audio.read import AudioError
from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError

logger = logging.getLogger(__name__)

FRAME = 0.04  # seconds, the encoder's
MOST = 5.0  # deviations; rare outliers in some channels of a large model would dominate the loss


class TeacherFrames:
    """Reader of a folder that `write` has written."""

    def __init__(self, folder: Path):
        """UserError if `folder` is not such a folder."""
        self.folder, path = Path(folder), Path(folder) / "teacher.json"
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            self.mean, self.deviation = (np.array(entry[key], dtype=np.float32) for key in ("mean", "deviation"))
            self.width = int(entry["width"])
            if not self.mean.shape == self.deviation.shape == (self.width,):
                raise ValueError("mean and deviation are not of its width")
        except FileNotFoundError:
            raise UserError(
                f"data.teacher={folder}: no {path.name} there: write it with `samba-asr augment teach`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a file of `samba-asr augment teach` ({error}): write it again") from None

    def __contains__(self, utterance: Utterance) -> bool:
        return (self.folder / _name(utterance)).is_file()

    def load(self, utterance: Utterance, t: int) -> np.ndarray:
        """Return the frames of an utterance, (t, w) float32, stretched to t frames like its audio by a change of speed.

        Each channel is normalized to mean 0 and deviation 1.  (0, w) for an utterance without teacher's frames.
        """
        path = self.folder / _name(utterance)
        if not path.is_file():
            return np.zeros((0, self.width), np.float32)
        try:
            frames = np.load(path, allow_pickle=False)
            if frames.ndim != 2 or frames.shape[1] != self.width:
                raise ValueError(f"shape {frames.shape}")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: not a teacher's frames ({error}): delete it, and write it again") from None
        frames = (frames.astype(np.float32) - self.mean) / self.deviation
        return stretch(np.clip(frames, -MOST, MOST), t)


def stretch(frames: np.ndarray, t: int) -> np.ndarray:
    """Resample (n, w) in time to (t, w), by linear interpolation between the centers of frames."""
    n = len(frames)
    if n == t or not n:
        return frames
    place = np.clip((np.arange(t) + 0.5) * n / t - 0.5, 0, n - 1)
    left = np.minimum(place.astype(np.int64), max(n - 2, 0))
    share = (place - left).astype(np.float32)[:, None]
    return frames[left] * (1 - share) + frames[np.minimum(left + 1, n - 1)] * share


def write(
    encode: Callable[[np.ndarray], np.ndarray],
    load: Callable[[Utterance], np.ndarray],
    utterances: Iterable[Utterance],
    folder: Path,
    who: str,
    report: Callable[[int], None] = lambda n: None,
) -> int:
    """Write `encode(load(utterance))`, (t, w), of each utterance into the folder; existing files are kept.

    Unreadable utterances are logged and left out.  report: called with the number of utterances done.  Return how many of
    the utterances the folder holds.  UserError for a folder of another teacher, and if no utterance can be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, held = folder / "teacher.json", []
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"teacher": who}
    if known.get("teacher") != who:
        raise UserError(f"{folder} holds the frames of {known.get('teacher')}, not of {who}: choose another --out")
    for k, utterance in enumerate(utterances, 1):
        file = folder / _name(utterance)
        if not file.exists():
            try:
                frames = encode(load(utterance))
            except AudioError as error:
                logger.warning("%s is left out: %s", utterance.id, error)
                continue
            part = file.with_suffix(".part")
            with part.open("wb") as target:
                np.save(target, frames.astype(np.float16))
            os.replace(part, file)
            report(k)
        held.append(file)
    if not held:
        raise UserError("no utterance could be read, so there are no frames to write: check the audio of the manifest")
    # A sample of the files is enough.  Only the first call does this: a run must keep the statistics it started with.
    if "mean" not in known:
        every = held[:: max(1, len(held) // 300)]
        some = np.concatenate([np.load(file, allow_pickle=False) for file in every]).astype(np.float64)
        known |= {
            "width": some.shape[1],
            "mean": some.mean(0).tolist(),
            "deviation": np.maximum(some.std(0), 1e-4).tolist(),
        }
        path.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return len(held)


def _name(utterance: Utterance) -> str:
    # ids are unique in one manifest only, and a folder may hold frames of several manifests
    said = f"{utterance.id} {utterance.start:.3f} {utterance.duration or 0:.3f}"
    return hashlib.sha1(said.encode()).hexdigest()[:20] + ".npy"
