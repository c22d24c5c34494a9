"""Transcription speed of a model folder: whole utterances, or live in one session, one utterance at a time.

The audio is read before the clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from samba_asr.audio.augment import add_noise, make_noise
from samba_asr.audio.read import read
from samba_asr.audio.resample import resample
from samba_asr.bench.measure import answer


def main(
    model: str,
    overrides: list[str],
    audio: list[list],
    device: str,
    latency_ms: int,
    rounds: int = 1,
    snr_db: float | None = None,
) -> dict[str, Any]:
    """Recognize `audio`, [[path, start, duration], ...], and measure the speed.

    latency_ms: 0 for whole utterances at the model's largest block, else the latency of a live session.  It receives audio in
        pieces such that every step computes one block and gives a partial result.
    snr_db: signal-to-noise ratio of added pink noise.
    times_real_time: seconds of audio in a second of time, the median of `rounds`.  p50_ms, p95_ms: time of a step.
    """
    import torch

    from samba_asr import collector
    from samba_asr.recognizer import Recognizer

    recognizer = Recognizer.load(model, device=device, settings=overrides)
    collector.settle()
    rate = recognizer.rate
    waves = load_audio(audio, rate, snr_db)
    _transcribe(recognizer, waves[0][: 4 * rate], latency_ms, [])  # warm-up
    steps: list[float] = []
    result = {
        **timed(lambda wave: _transcribe(recognizer, wave, latency_ms, steps), waves, rate, rounds),
        "device": str(recognizer.runtime.device),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in recognizer.model.parameters()) if recognizer.model else 0,
    }
    if latency_ms:
        result["p50_ms"], result["p95_ms"] = (1000 * float(q) for q in np.quantile(steps, [0.5, 0.95]))
    return result


def _transcribe(recognizer, wave: np.ndarray, latency_ms: int, steps: list[float]) -> str:
    """Recognize one waveform; for a live session add the time of every step to `steps`."""
    stream = recognizer.stream(latency_ms=latency_ms or None)
    size = recognizer.latency(latency_ms).hop * recognizer.runtime.stride if latency_ms else len(wave)
    for at in range(0, len(wave), size):
        began = time.perf_counter()
        stream.accept(wave[at : at + size])
        if latency_ms:
            _ = stream.partial
            steps.append(time.perf_counter() - began)
    began = time.perf_counter()
    text = stream.finish().text
    if latency_ms:
        steps[-1] += time.perf_counter() - began  # the rest, as the last chunk was not a whole block
    return text


def timed(transcribe: Callable[[np.ndarray], str], waves: list[np.ndarray], rate: int, rounds: int) -> dict[str, Any]:
    """Measure `transcribe` on all waves, as the median of `rounds`; also return its last texts."""
    taken, texts = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        texts = [transcribe(wave) for wave in waves]
        taken.append(time.perf_counter() - began)
    audio, seconds = sum(map(len, waves)) / rate, float(np.median(taken))
    return {"times_real_time": audio / seconds, "audio_seconds": audio, "seconds": seconds, "texts": texts}


def load_audio(audio: list[list], rate: int, snr_db: float | None) -> list[np.ndarray]:
    """Read waveforms (s,), float32 at `rate`, of [[path, start, duration], ...]; added noise is the same at every call."""
    waves = []
    for n, (path, start, duration) in enumerate(audio):
        found = read(path, start=start, duration=duration)
        wave = resample(found.samples, found.rate, rate)
        if snr_db is not None:
            wave = add_noise(wave, make_noise(len(wave), "pink", np.random.default_rng(n)), snr_db)
        waves.append(wave)
    return waves


if __name__ == "__main__":
    answer(main)
