"""Interface between a trained model and the code that uses it: samples in, frames and log-probabilities out.

A runtime has no words, searches or sessions.  Everything above it (search, session, recognizer, engine) uses only
`AcousticRuntime`.  So another way to run a model, such as an exported graph, is one more class with these methods.

The streaming contract (`samba_asr.streaming`) holds: the frames of successive `step`s, then of `finish`, are those of `forward`
over the whole audio.

    b rows (sessions)     s samples     t encoder frames     d channels     v units, 0 is the CTC blank
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from samba_asr.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MAX_STEP = 10.0
"""Seconds of a session's audio in one step of the model, at most.  Longer input is cut, to bound memory."""

LARGEST_OVERLAP = 1 / 32
"""Overlap of the largest blocks: 0.64 s of 20.48 in `english`.  Files of many blocks have 2.7 % fewer wrong words with it, for
5 % more work of the encoder (egs/mini_librispeech/RESULTS.md, "Final texts in larger blocks")."""


@dataclass(frozen=True)
class Latency:
    """Sizes of a session's encoder blocks, in encoder frames.

    block: frames in a block.  Text lags behind speech by at most so much.
    hop: frames from the start of a block to that of the next, 1 to `block`.  Below `block` the blocks overlap: every frame is
        emitted once, by the first block with at least `block - hop` frames after it.
    """

    block: int
    hop: int


class Frames(NamedTuple):
    """Encoder frames of some rows, left-aligned, in the host's memory: arrays, for what comes next needs no torch."""

    encoder: np.ndarray  # (b, t, d), for the second pass
    log_probs: np.ndarray  # (b, t, v) of the CTC head, float32 or wider
    lengths: np.ndarray  # (b,) valid frames of each row


class SecondPass(Protocol):
    """Decoder that scores and writes texts by the encoder frames it has absorbed (`samba_asr.models.decoder.MambaDecoder`)."""

    def init_memory(self, batch: int) -> Any:
        """Make the memory of `batch` rows before the first frame, on the decoder's device."""
        ...

    def absorb(self, frames: Any, lengths: Any, memory: Any) -> Any:
        """Return the memory after `lengths` (b,) more of `frames` (b, t, d), tensors or arrays."""
        ...

    def loss(self, tokens: Tensor, lengths: Tensor, memory: Any) -> Tensor:
        """Return -log p(text, end | frames) (b,) of tokens (b, u), in nats."""
        ...

    def init_text(self, memory: Any) -> Any:
        """Make the state of texts before their first token, one for each row of the memory."""
        ...

    def step(self, tokens: Tensor, lengths: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return logits (b, u, v) of the token after each of tokens (b, u), id 0 is the start and the end; and the state."""
        ...


class AcousticRuntime(Protocol):
    """Runs a model's front end, encoder and CTC head for any number of sessions."""

    rate: int  # samples a second of its input
    stride: int  # samples of an encoder frame; input comes in multiples of it
    max_block: int  # frames in the largest block, the one of offline recognition
    device: Any  # torch.device, or "cpu"
    second_pass: SecondPass | None
    takes_gaps: bool = False  # whether `step` takes gaps and NaN, and `pause` keeps the state; else a pause ends all

    @property
    def frame(self) -> float:
        """Seconds of an encoder frame."""
        ...

    def start(self, latency: Latency) -> Any:
        """Make the state of one session before any audio."""
        ...

    def step(
        self, audio: Sequence[np.ndarray], states: Sequence[Any], gaps: Sequence[float] | None = None
    ) -> tuple[Frames, list[Any]]:
        """Process the next chunk of each session: float32 (s,), s a multiple of `stride`.  The old states stay valid.

        All sessions of one call have the same block size.  With `takes_gaps`: NaN samples are missing, such as lost packets, and
        gaps are encoder frames of audio that is missing before each chunk, such as a pause, default none.
        """
        ...

    def pause(self, states: Sequence[Any]) -> tuple[Frames, list[Any]]:
        """Return the frames that wait for more audio, and the states for the audio after a pause, which comes with its gap."""
        return self.finish(states), [None] * len(states)  # without `takes_gaps` the audio after a pause starts anew

    def finish(self, states: Sequence[Any]) -> Frames:
        """Return the last frames, which waited for more audio."""
        ...

    def forward(self, audio: Tensor, lengths: Tensor, latency: Latency) -> Frames:
        """Process whole utterances: audio (b, s), lengths (b,) in samples."""
        ...


def latency_of(ms: float | None, overlap: float, frame: float, max_block: int) -> Latency:
    """Convert a latency in ms to blocks; None: the largest block, for offline use.

    overlap: share of a block that is computed again as the beginning of the next, from 0 to less than 1.  The largest block has
        its own, `LARGEST_OVERLAP`.
    frame: seconds of an encoder frame.
    UserError for a latency that is not a whole number of frames, or longer than the largest block.
    """
    if ms is None:
        return Latency(max_block, _hop(max_block, LARGEST_OVERLAP))
    frame_ms = frame * 1000
    frames = ms / frame_ms
    if not (1 <= frames <= max_block and abs(frames - round(frames)) < 1e-6):
        raise UserError(
            f"latency of {ms:g} ms: it must be a multiple of {frame_ms:g} ms, "
            f"from {frame_ms:g} to {max_block * frame_ms:g}"
        )
    block = round(frames)
    return Latency(block, _hop(block, LARGEST_OVERLAP if block == max_block else overlap))


def _hop(block: int, overlap: float) -> int:
    return max(1, block - int(block * overlap))
