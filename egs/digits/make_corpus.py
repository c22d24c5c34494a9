"""Pack a folder of short clips into one Ogg Opus file for each speaker.  This made `egs/digits/data`.

    python egs/digits/make_corpus.py SOURCE TARGET

SOURCE and TARGET have a manifest.jsonl.  51 files are easier on Git and disks than 714.  A quarter of a second of silence
separates clips, so that the codec does not smear one into the next.  `start` and `duration` in the manifest cut the clips out
exactly.
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from samba_asr.audio.read import read
from samba_asr.data.manifest import Utterance, read_manifest, write_manifest

RATE = 16000
GAP = RATE // 4  # samples; they need not be whole Opus frames (20 ms), as libsndfile removes the encoder's delay
BITRATE = 28000  # bits a second at most: speech with pauses takes about two thirds of it

log = logging.getLogger("make_corpus")


def pack(utterances: list[Utterance], path: Path) -> list[Utterance]:
    """Write one speaker's clips to `path`, one after the other; return the utterances that cut them out again."""
    parts, packed, place = [], [], 0
    for utterance in utterances:
        audio = read(utterance.audio)
        if audio.rate != RATE:
            raise ValueError(f"{utterance.audio} has {audio.rate} samples a second, not {RATE}")
        s = len(audio.samples)
        packed.append(replace(utterance, audio=str(path), start=place / RATE, duration=s / RATE, rate=None))
        parts += [audio.samples, np.zeros(GAP, np.float32)]
        place += s + GAP
    level = 1 - (BITRATE - 6000) / 250000  # libsndfile: level 0 is 256 kbit/s a channel, level 1 is 6 kbit/s
    soundfile.write(path, np.concatenate(parts), RATE, format="OGG", subtype="OPUS", compression_level=level)
    return packed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    speakers: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in read_manifest(options.source / "manifest.jsonl"):
        speakers[utterance.speaker].append(utterance)
    folder = options.target / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    packed = [u for name in sorted(speakers) for u in pack(speakers[name], folder / f"{name}.opus")]
    write_manifest(options.target / "manifest.jsonl", packed)
    size = sum(path.stat().st_size for path in folder.glob("*.opus"))
    log.info("%d clips of %d speakers, %.2f MB in %s", len(packed), len(speakers), size / 1e6, folder)


if __name__ == "__main__":
    main()
