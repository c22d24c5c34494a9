"""Write twenty clips of the digits corpus as people keep their own: my_corpus/<speaker>/<clip>.wav, and its text in .txt.

python clips.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import soundfile

from samba_asr.audio.read import read
from samba_asr.data.manifest import read_manifest

MANIFEST = Path(__file__).resolve().parents[1] / "digits" / "data" / "manifest.jsonl"
SPEAKERS, CLIPS = 4, 5  # speakers, and clips of each


def write(folder: Path) -> None:
    """Write the longest clips of the first speakers of the test set, whom no shipped model knows."""
    by_speaker: dict[str, list] = {}
    for utterance in read_manifest(MANIFEST):
        if utterance.split == "test":
            by_speaker.setdefault(utterance.speaker, []).append(utterance)
    for speaker, utterances in sorted(by_speaker.items())[:SPEAKERS]:
        (folder / speaker).mkdir(parents=True, exist_ok=True)
        for number, utterance in enumerate(sorted(utterances, key=lambda u: -len(u.text.split()))[:CLIPS]):
            audio = read(utterance.audio, start=utterance.start, duration=utterance.duration)
            soundfile.write(folder / speaker / f"{number}.wav", audio.samples, audio.rate)
            (folder / speaker / f"{number}.txt").write_text(utterance.text.capitalize() + ".\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
