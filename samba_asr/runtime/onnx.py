"""Runtime that runs an exported model by onnxruntime and numpy, on a CPU; it needs no torch.

`samba_asr.runtime.export` writes the folder of graphs, and its head describes the files.  Log-mel features are computed in
numpy, everything after them by graphs.  A graph runs rows of one block each, all of it valid.  So this file buffers frames
until a block is whole, as `samba_asr.models.encoder` does, and runs rows of different lengths in separate calls.

Shapes: r rows of one call, s samples, t encoder frames, d channels, m mels, v units.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from samba_asr.audio.features_numpy import FeatureState, NumpyLogMel
from samba_asr.audio.level_numpy import NumpyLevel
from samba_asr.audio.onnx import session
from samba_asr.errors import UserError
from samba_asr.runtime.base import AcousticRuntime, Frames, Latency, SecondPass
from samba_asr.threads import each
from samba_asr.threads import threads as default_threads

FORMAT = 1
"""Version of a folder of graphs; other versions are refused."""
DESCRIPTION = "graphs.json"
FRONT, BLOCK, WHOLE, FEATURES = "front.onnx", "block.onnx", "whole.onnx", "features.npz"
SHORT = 128
"""Frames of the longest block for which `BLOCK` is used: its scans take time quadratic in the block, without other overhead.
A block of it runs in one thread, so larger blocks leave the other cores to live steps: at 128 frames 63 ms for the 48 to 57 of
`WHOLE`, and partial results of 30 sessions take 198 ms in place of 430 to 670 (p95)."""
ROWS = 32  # in one call of a graph, at most
T = TypeVar("T")


class Description(NamedTuple):
    """The contents of graphs.json."""

    format: int
    weights: str  # sha256 of the model.safetensors that was exported
    files: dict[str, str]  # sha256 of each file
    rate: int  # samples a second
    hop: int  # samples between feature frames
    stride: int  # samples of an encoder frame
    max_block: int  # encoder frames in the largest block
    d_model: int
    units: int
    front_state: int  # numbers in the packed state of a row
    layer_state: int
    int8: bool = False  # whether the weights of matrix products are 8-bit
    gain: bool = False  # model.features.gain


class OnnxState(NamedTuple):
    """State of one session.  Its arrays are never changed."""

    latency: Latency
    features: FeatureState
    front: np.ndarray  # (front_state,)
    waiting: np.ndarray  # (n, d) frames of a block that is not yet whole
    layers: np.ndarray  # (layer_state,)


class Piece(NamedTuple):
    """Frames that one row has emitted."""

    encoder: np.ndarray  # (t, d)
    log_probs: np.ndarray  # (t, v)


class OnnxRuntime(AcousticRuntime):
    """An exported model.  It takes no gaps: a short one counts as silence, and after a long one the encoder starts again."""

    device = "cpu"

    def __init__(
        self,
        folder: Path | str,
        *,
        weights: str | None = None,
        second_pass: SecondPass | None = None,
        threads: int | None = None,
    ):
        """folder: that of the graphs.

        weights: sha256 of the weights that the graphs must come from; None: any.
        threads: for the rows of a step, or for one long row; None: as many as torch's operations use (`samba_asr.threads`).
        UserError for a folder that is incomplete, damaged, of another version, or of other weights.
        """
        self.folder = Path(folder)
        self.about = describe(self.folder, weights)
        self.rate, self.stride, self.max_block = self.about.rate, self.about.stride, self.about.max_block
        self.second_pass = second_pass
        with np.load(self.folder / FEATURES) as arrays:
            level = NumpyLevel(self.rate, self.about.hop) if self.about.gain else None
            self._features = NumpyLogMel(arrays, self.about.hop, level)
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def frame(self) -> float:
        return self.stride / self.rate

    @property
    def threads(self) -> int:
        """Threads of the next step."""
        return self._threads or default_threads()

    def start(self, latency: Latency) -> OnnxState:
        about = self.about
        zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
        return OnnxState(
            latency,
            self._features.init_state(),
            zeros(about.front_state),
            zeros(0, about.d_model),
            zeros(about.layer_state),
        )

    def step(
        self, audio: Sequence[np.ndarray], states: Sequence[OnnxState], gaps: Sequence[float] | None = None
    ) -> tuple[Frames, list[OnnxState]]:
        assert not gaps, "graphs take no gaps (takes_gaps)"
        features, heard = self._features.step(audio, [state.features for state in states], self.threads)
        frames, front = self._front(features, [state.front for state in states])
        waiting = [np.concatenate([state.waiting, x]) for state, x in zip(states, frames, strict=True)]
        layers = [state.layers for state in states]
        found: list[list[Piece]] = [[] for _ in states]
        while rows := [row for row, state in enumerate(states) if len(waiting[row]) >= state.latency.block]:
            for some in _groups(rows, [states[row].latency for row in rows]):
                block, hop = states[some[0]].latency.block, states[some[0]].latency.hop
                pieces, after = self._block([waiting[row][:block] for row in some], hop, [layers[row] for row in some])
                for row, piece, state in zip(some, pieces, after, strict=True):
                    found[row].append(piece)
                    waiting[row], layers[row] = waiting[row][hop:], state
        after = [
            OnnxState(old.latency, heard[row], front[row], waiting[row].copy(), layers[row])
            for row, old in enumerate(states)
        ]
        return self._padded(found), after

    def finish(self, states: Sequence[OnnxState]) -> Frames:
        return self.pause(states)[0]

    def pause(self, states: Sequence[OnnxState]) -> tuple[Frames, list[OnnxState]]:
        found: list[list[Piece]] = [[] for _ in states]
        after = list(states)
        rows = [row for row, state in enumerate(states) if len(state.waiting)]
        for some in _groups(rows, [len(states[row].waiting) for row in rows]):
            x, layers = [states[row].waiting for row in some], [states[row].layers for row in some]
            for row, piece, state in zip(some, *self._block(x, len(x[0]), layers), strict=True):
                found[row].append(piece)
                after[row] = after[row]._replace(waiting=after[row].waiting[:0], layers=state)
        return self._padded(found), after

    def forward(self, audio: Any, lengths: Any, latency: Latency) -> Frames:
        found: list[list[Piece]] = []
        for samples, n in zip(np.asarray(audio, np.float32), np.asarray(lengths).tolist(), strict=True):
            first, (state,) = self.step([samples[: n // self.stride * self.stride]], [self.start(latency)])
            found.append([_only(first), _only(self.finish([state]))])
        return self._padded(found)

    # ---- graphs ------------------------------------------------------------------------------------------------------

    def _front(self, features: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list]:
        """Subsample features (t', m) of each row; return frames (t, d), and the new states."""
        counts = np.array([len(x) for x in features])
        stride, front = self.stride // self.about.hop, self._session(FRONT)

        def run(rows: slice) -> tuple[list[np.ndarray], list[np.ndarray]]:
            some, lengths = features[rows], counts[rows]
            if not lengths.any():
                return [np.zeros((0, self.about.d_model), np.float32) for _ in some], list(states[rows])
            padded = np.zeros((len(some), lengths.max(), self._features.mels), np.float32)
            for row, x in enumerate(some):
                padded[row, : len(x)] = x
            frames, after = front.run(None, {"features": padded, "lengths": lengths, "state": np.stack(states[rows])})
            return [x[: n // stride] for x, n in zip(frames, lengths, strict=True)], _rows(after)

        found = self._shared(len(features), run)
        return [x for frames, _ in found for x in frames], [state for _, after in found for state in after]

    def _block(
        self, x: Sequence[np.ndarray], keep: int, states: Sequence[np.ndarray]
    ) -> tuple[list[Piece], list[np.ndarray]]:
        """Run rows of one block each, (t, d); return the first `keep` frames of each and the states after them."""
        graph = self._session(BLOCK if len(x[0]) <= SHORT else WHOLE)

        def run(rows: slice) -> tuple[list[Piece], list[np.ndarray]]:
            frames = np.stack(x[rows])
            given = {"frames": frames, "keep": np.full(len(frames), keep), "state": np.stack(states[rows])}
            frames, log_probs, after = graph.run(None, given)
            return [Piece(y, p) for y, p in zip(frames[:, :keep], log_probs[:, :keep], strict=True)], _rows(after)

        found = self._shared(len(x), run)
        return [piece for pieces, _ in found for piece in pieces], [state for _, after in found for state in after]

    def _shared(self, count: int, run: Callable[[slice], T]) -> list[T]:
        """Divide `count` rows among threads, at most `ROWS` in a call; return the results in order."""
        size = min(ROWS, math.ceil(count / self.threads))
        slices = [slice(at, at + size) for at in range(0, count, size)]
        found: dict[int, T] = {}
        each(lambda n: found.__setitem__(n, run(slices[n])), range(len(slices)), self.threads)
        return [found[n] for n in range(len(slices))]

    def _session(self, name: str) -> Any:
        with self._lock:
            if name not in self._sessions:
                inside = (
                    self.threads if name == WHOLE else 1
                )  # a file is one row; the rows of live blocks are shared out
                self._sessions[name] = session(self.folder / name, "fast", inside)
            return self._sessions[name]

    def _padded(self, found: Sequence[Sequence[Piece]]) -> Frames:
        """Join the pieces of each row, and pad the rows."""
        lengths = np.array([sum(len(piece.encoder) for piece in pieces) for pieces in found])
        t = int(lengths.max()) if len(lengths) else 0
        encoder = np.zeros((len(found), t, self.about.d_model), np.float32)
        log_probs = np.zeros((len(found), t, self.about.units), np.float32)
        for row, pieces in enumerate(found):
            at = 0
            for piece in pieces:
                encoder[row, at : at + len(piece.encoder)] = piece.encoder
                log_probs[row, at : at + len(piece.encoder)] = piece.log_probs
                at += len(piece.encoder)
        return Frames(encoder, log_probs, lengths)


def describe(folder: Path, weights: str | None = None) -> Description:
    """Read and check the description of a folder of graphs; UserError as for `OnnxRuntime`."""
    path = folder / DESCRIPTION
    try:
        about = Description(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds no exported model: it has no {DESCRIPTION}: write one with samba-asr export"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): export the model again") from None
    if about.format != FORMAT:
        raise UserError(
            f"{folder} has graphs of format {about.format}, this samba_asr reads {FORMAT}: export the model again"
        )
    if weights is not None and about.weights != weights:
        raise UserError(
            f"{folder} was exported from other weights (sha256 {about.weights[:12]}..., the model's is {weights[:12]}...): "
            "export the model again"
        )
    for name, digest in about.files.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}: export the model again")
        if sha256(folder / name) != digest:
            raise UserError(
                f"{folder / name} is damaged: its sha256 is not the one in {DESCRIPTION}: export the model again"
            )
    return about


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _groups(rows: Sequence[int], keys: Sequence[Any]) -> list[list[int]]:
    """Group rows with equal keys."""
    groups: dict[Any, list[int]] = {}
    for row, key in zip(rows, keys, strict=True):
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _rows(state: np.ndarray) -> list[np.ndarray]:
    """Split a state into its rows.  Copies, because a view would keep the rows of all sessions alive."""
    return [row.copy() for row in state] if len(state) > 1 else [state[0]]


def _only(frames: Frames) -> Piece:
    return Piece(frames.encoder[0], frames.log_probs[0])
