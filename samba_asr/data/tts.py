"""Synthetic training speech, by text-to-speech models from packages; Kokoro's may also be in a folder.

    Kokoro   Kokoro-82M (samba_asr.data.kokoro), any number of voices (samba_asr.data.voices); 1.5 times real time on a core
    Hibari   one voice, distilled from Kokoro, and many times as fast

Its transcripts are correct by construction, but it is too clean and too uniform: mix it with real speech, and augment it
(`augment.*`).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from samba_asr.data import kokoro
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.data.voices import SENTENCES, Voice
from samba_asr.errors import UserError, missing_extra
from samba_asr.text.lm import read_lines
from samba_asr.text.normalize import upper

RATE = 16000  # samples per second of the files
SPOKEN = kokoro.RATE  # samples per second of both models
LONGEST = 505  # phonemes per sentence
EASY = re.compile(r"[A-Za-z' ,.;:!?\"-]+")
"""Lines that are read aloud in only one way.  Numbers and signs have several readings."""


class Speaker(Protocol):
    """Interface of a text-to-speech model."""

    def __call__(self, phonemes: str, draw: random.Random) -> tuple[str, np.ndarray, float]:
        """Return the speaker's name, the audio, float32 (s,), and its samples per second.  s is 0 for too long a sentence."""
        ...


class Kokoro:
    """Kokoro-82M with given voices."""

    def __init__(self, styles: Path, speakers: Sequence[Voice] = (), folder: Path | None = None):
        """styles: file of (510, 256) arrays by name, one row per number of phonemes.  speakers: `__call__` draws from them.

        folder: of the network's files; None: the package.  UserError for a file without styles, a folder without a network,
        and a missing package.
        """
        self._network: kokoro.Network = kokoro.PackagedNetwork() if folder is None else kokoro.FolderNetwork(folder)
        self._styles = np.stack([rows for _, rows in sorted(read_styles(styles).items())])  # (n, 510, 256)
        self._speakers = speakers

    def __call__(self, phonemes: str, draw: random.Random) -> tuple[str, np.ndarray, float]:
        n = draw.randrange(len(self._speakers))
        wave, rate = self.speak(phonemes, self._speakers[n], draw.uniform(0.95, 1.05))
        return f"kokoro{n:04d}", wave, rate

    def speak(self, phonemes: str, voice: Voice, hurry: float = 1.0) -> tuple[np.ndarray, float]:
        """Return float32 (s,) and its samples per second, which is above SPOKEN if the voice is warped up."""
        count = self._network.count(phonemes)
        if not 0 < count <= LONGEST:
            return np.zeros(0, np.float32), SPOKEN
        style = voice.weights @ self._styles[:, count - 1]  # (256,)
        return self._network.say(phonemes, style, voice.speed * hurry / voice.warp), SPOKEN * voice.warp


class Hibari:
    """Hibari's one voice."""

    def __init__(self):
        self._speak = _hibari()

    def __call__(self, phonemes: str, draw: random.Random) -> tuple[str, np.ndarray, float]:
        return "hibari", self._speak.from_phonemes(phonemes, draw.uniform(0.85, 1.2), draw.randrange(1 << 30)), SPOKEN


def sentences(path: Path, least: int, most: int, n: int | None, seed: int) -> list[str]:
    """Return lines of `least` to `most` words of letters and punctuation only: all, or `n` at random.

    UserError if the text cannot be read or has no such line.
    """
    found = [line for line in read_lines([path]) if EASY.fullmatch(line) and least <= len(line.split()) <= most]
    if not found:
        raise UserError(f"{path}: no line of {least} to {most} words without digits and signs: give another text")
    if n is None or n >= len(found):
        return found
    if n < 1:
        raise UserError(f"--sentences {n}: give 1 or more")
    return random.Random(seed).sample(found, n)


def claim(folder: Path, said: dict[str, Any]) -> None:
    """Reserve the folder for the speech described by `said`; UserError if it holds other speech."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "said.json"
    content = json.dumps(said, indent=2) + "\n"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        if path.read_text(encoding="utf-8") != content:
            raise UserError(
                f"{path} is of another text, seed or voices: choose another --out, or delete {folder}"
            ) from None


def speak(
    voice: Speaker,
    lines: Mapping[int, str],
    folder: Path,
    manifest: Path,
    seed: int,
    report: Callable[[int], None] = lambda n: None,
) -> float:
    """Speak `lines` (by number) into `folder`, and append each to `manifest`; lines that it has are skipped.

    A line's speaker, speed and loudness depend only on its number and the seed, so lines may be divided into any shards.
    report: called with the number of lines done.  Return the hours in the manifest.
    """
    import soundfile
    import soxr

    phonemize = _hibari().phonemize
    done = {u.id.rpartition("-")[2]: u for u in read_manifest(manifest)} if manifest.exists() else {}
    seconds = sum(u.duration or 0.0 for u in done.values())
    with manifest.open("a", encoding="utf-8") as log:
        for k, (n, line) in enumerate(lines.items(), 1):
            number = f"{n:07d}"
            if number in done:
                continue
            draw = random.Random(f"{seed} {n}")
            lower = line.lower() if line.isupper() else line  # capitals would be spelled letter by letter
            who, wave, rate = voice(" ".join(phonemize(lower)), draw)
            wave = soxr.resample(wave, rate, RATE)
            report(k)
            if not len(wave) or not np.isfinite(wave).all():
                continue
            wave = wave * (draw.uniform(0.2, 0.9) / max(float(np.abs(wave).max()), 1e-3))
            name, duration = f"{who}-{number}", round(len(wave) / RATE, 4)
            said = Utterance(name, f"{name}.flac", upper(line), who, duration, rate=RATE, split="train")
            soundfile.write(folder / said.audio, wave, RATE)
            log.write(_entry(said))
            log.flush()
            seconds += duration
    return seconds / 3600


def errors_of(kokoro: Kokoro, read: Callable[[np.ndarray], str]) -> Callable[[Voice], float]:
    """Return a function that measures a voice's word error rate, 0 to 1: the voice speaks SENTENCES, and `read` recognizes.

    read: (s,) float32, RATE samples per second -> text in capitals, as by `upper`.
    """
    import soxr

    from samba_asr.metrics.wer import score

    phonemes = [" ".join(_hibari().phonemize(sentence)) for sentence in SENTENCES]

    def errors(voice: Voice) -> float:
        texts = {}
        for i, said in enumerate(phonemes):
            wave, rate = kokoro.speak(said, voice)
            wave = soxr.resample(wave, rate, RATE)
            peak = float(np.abs(wave).max(initial=0.0))
            texts[str(i)] = read(wave / peak * 0.5) if np.isfinite(peak) and peak > 0 else ""
        return min(score({str(i): upper(sentence) for i, sentence in enumerate(SENTENCES)}, texts).wer, 1.0)

    return errors


def _entry(u: Utterance) -> str:
    keys = ("id", "audio", "text", "speaker", "duration", "rate", "split")
    return json.dumps({key: getattr(u, key) for key in keys}) + "\n"


def _hibari():
    try:
        from hibari import Hibari
    except ImportError as error:
        raise missing_extra("hibari-tts", "tts") from error
    return Hibari(threads=1)


def read_styles(path: Path) -> dict[str, np.ndarray]:
    """Read styles by name, float32 (510, 256) each.  Row i is for i + 1 phonemes."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name].astype(np.float32).reshape(-1, 256) for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise UserError(f"{path}: not a file of Kokoro's voices ({error})") from None
    if not found or any(len(rows) <= LONGEST for rows in found.values()):
        raise UserError(f"{path}: not a file of Kokoro's voices: a voice must have 510 rows of 256 numbers")
    return found
