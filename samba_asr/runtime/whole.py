"""Log-probabilities of audio of any length and rate, without a search."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from samba_asr.audio.framer import Framer
from samba_asr.runtime.base import MAX_STEP, AcousticRuntime, Latency


def log_probs(
    runtime: AcousticRuntime, pieces: Iterable[np.ndarray], rate: int, latency: Latency
) -> tuple[np.ndarray, float]:
    """Compute the log-probabilities (t, v) of audio, and its seconds.  pieces: float32 (s,), of any lengths."""
    framer, state, found = Framer(rate, runtime.rate, runtime.stride), runtime.start(latency), []
    most = int(MAX_STEP * runtime.rate) // runtime.stride * runtime.stride

    def run(samples: np.ndarray) -> None:
        nonlocal state
        for at in range(0, len(samples), most):
            frames, (state,) = runtime.step([samples[at : at + most]], [state])
            found.append(frames)

    for samples in pieces:
        for piece in framer.accept(samples):
            run(piece.samples)
    for piece in framer.finish():
        run(piece.samples)
    found.append(runtime.finish([state]))
    return np.concatenate([f.log_probs[0, : int(f.lengths[0])].astype(np.float32) for f in found]), framer.seconds
