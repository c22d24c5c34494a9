"""Transcription speed of a model folder: whole utterances, or live in one session, one utterance at a time.

The audio is read before the clock starts.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from samba_asr.audio.read import read
from samba_asr.audio.resample import resample
from samba_asr.bench.measure import answer


def main(
    model: str, overrides: list[str], audio: list[list], device: str, block: int, rounds: int = 1
) -> dict[str, Any]:
    """Recognise `audio`, [[path, start, duration], ...], and say how fast it went.

    block: 0 for whole utterances at the model's largest block, else the frames in a block, and in the chunks that a
        session is fed with: so every step computes one block, and gives a partial result.
    times_real_time: seconds of audio in a second of time, the median of `rounds`; p50_ms, p95_ms of a step's time.
    """
    import torch

    from samba_asr import config as configs
    from samba_asr.decoding.build import two_pass
    from samba_asr.device import choose_device
    from samba_asr.models.folder import load_model

    chosen = choose_device(device)
    loaded = load_model(model, chosen)
    search = two_pass(loaded, configs.load([f"{model}/config.yaml"], overrides).decode)
    rate = loaded.config.model.features.sample_rate
    waves = load_audio(audio, rate)
    session = _Session(loaded, search, block)
    with torch.inference_mode():
        session.transcribe(waves[0][: 4 * rate], [])  # warm-up
        taken, steps, texts = [], [], []
        for _ in range(rounds):
            began = time.perf_counter()
            texts = [session.transcribe(wave, steps) for wave in waves]
            taken.append(time.perf_counter() - began)
    heard = sum(len(wave) for wave in waves) / rate
    result = {
        "times_real_time": heard / float(np.median(taken)),
        "audio_seconds": heard,
        "seconds": float(np.median(taken)),
        "texts": texts,
        "device": str(chosen),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
    }
    if block:
        result["p50_ms"], result["p95_ms"] = (1000 * float(q) for q in np.quantile(steps, [0.5, 0.95]))
    return result


def load_audio(audio: list[list], rate: int) -> list[np.ndarray]:
    """Waveforms (s,), float32 at `rate`, of [[path, start, duration], ...]."""
    waves = []
    for path, start, duration in audio:
        found = read(path, start=start, duration=duration)
        waves.append(resample(found.samples, found.rate, rate))
    return waves


class _Session:
    """Both ways of use of one model, for one utterance; `block` in frames, 0 for whole utterances."""

    def __init__(self, loaded, search, block: int):
        self.model, self.tokenizer, self.search, self.block = loaded.model, loaded.tokenizer, search, block
        self.device = next(loaded.model.parameters()).device

    def transcribe(self, wave: np.ndarray, steps: list[float]) -> str:
        """The text of one waveform; live, the time of every step is added to `steps`."""
        import torch

        x = torch.from_numpy(wave).to(self.device)[None, :, None]  # (1, s, 1)
        if not self.block:
            frames, lengths = self.model.acoustic(x, torch.tensor([x.shape[1]], device=self.device))
            return self._final(self.search.step(frames, lengths, self.search.init_state(1)))
        stride = self.model.acoustic.stride
        state = self.model.acoustic.init_state(1, block=self.block, device=self.device)
        heard = self.search.init_state(1)
        chunks = x[:, : x.shape[1] // stride * stride].split(self.block * stride, dim=1)
        for i, chunk in enumerate(chunks):
            began = time.perf_counter()
            length = torch.tensor([chunk.shape[1]], device=self.device)
            frames, lengths, state = self.model.acoustic.step(chunk, length, state)
            heard = self.search.step(frames, lengths, heard)
            if i < len(chunks) - 1:
                text = self.tokenizer.decode(self.search.search.hypotheses(heard.search)[0][0].tokens)
            else:  # with what waits, because the last chunk was no whole block
                text = self._final(self.search.step(*self.model.acoustic.finish(state), heard))
            steps.append(time.perf_counter() - began)
        return text

    def _final(self, heard) -> str:
        ((best, *_),) = self.search.hypotheses(self.search.finish(heard))
        return self.tokenizer.decode(best.tokens)


if __name__ == "__main__":
    answer(main)
