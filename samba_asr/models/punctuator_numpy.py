"""Punctuation and case in numpy: the twin of `samba_asr.models.punctuator`, for recognition.

A segment has some twenty words, for which torch needs hundreds of operations that take longer to begin than to run.  Here a
segment is one block, and each scan one product of small matrices (the dual form of Dao and Gu, arXiv 2405.21060, section 3).
It needs no torch.  It computes in float32.

    t words     f features of a word     d d_model     h heads, p channels of a head, n state     c classes
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samba_asr.models import one_file
from samba_asr.models.numpy_layers import columns, layer_norm, log_softmax, silu
from samba_asr.text.written.marks import CASES, MARKS
from samba_asr.text.written.vocabulary import Vocabulary

FILE = "punctuation.safetensors"  # in the folder of this file
SCALE = ".scale"  # suffix of the names of the scales of 8-bit matrices
RMS_EPS = 1e-5  # Hydra's
PIECE = 64  # words of a product; of longer segments the state is carried from piece to piece


class LayerState(NamedTuple):
    """State of one layer, as `samba_asr.nn.mixers.hydra.HydraState` of one row."""

    conv: np.ndarray  # (k, channels) last inputs of the short convolution
    ssm: np.ndarray  # (h, p, n)
    last: np.ndarray  # (h * p,) last output of the forward scan


class NumpyPunctuator:
    """Network from the words of a segment to their cases and the marks after them; for one stream of segments at a time.

    listed, bias: as of `Punctuator`.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        vocabulary: Vocabulary,
        listed: Mapping[str, str],
        bias: Sequence[float],
        layers: int,
    ):
        """weights: of a `Punctuator`, by its names; matrices may have 8 bits, and scales."""
        self.vocabulary, self.listed, self.bias = vocabulary, dict(listed), tuple(bias)
        plain = functools.partial(_plain, weights)
        self._embedding = weights["embedding.weight"]  # decoded word by word, as it is most of the network
        scale = weights.get("embedding.weight" + SCALE)
        self._scale = None if scale is None else scale.astype(np.float32)
        self._pause = plain("pause.weight")
        self._project, self._project_bias = columns(plain("project.weight")), plain("project.bias")
        self._layers = [_Layer({name: plain(f"layers.{i}.{name}") for name in _NAMES}) for i in range(layers)]
        self._norm, self._norm_bias = plain("norm.weight"), plain("norm.bias")
        self._output, self._output_bias = columns(plain("output.weight")), plain("output.bias")

    def init_state(self) -> tuple[LayerState, ...]:
        """Return the state before any word."""
        return tuple(layer.init_state() for layer in self._layers)

    def read(
        self, x: np.ndarray, state: Sequence[LayerState] | None, beyond: int = 0
    ) -> tuple[np.ndarray, np.ndarray, tuple[LayerState, ...]]:
        """Read a segment, as `samba_asr.decoding.written.Network.read`."""
        words = self._embedding[x[:, :-1]].astype(np.float32)  # (t, f, e)
        if self._scale is not None:
            words *= self._scale[x[:, :-1]]
        y = words.sum(1) @ self._project + self._project_bias + self._pause[x[:, -1]]
        after = []
        for layer, before in zip(self._layers, state or self.init_state(), strict=True):
            y, s = layer.read(y, before, len(x) - beyond)
            after.append(s)
        logits = layer_norm(y, self._norm, self._norm_bias) @ self._output + self._output_bias
        return log_softmax(logits[:, : len(CASES)]), log_softmax(logits[:, len(CASES) :]), tuple(after)


_NAMES = (
    *("norm.weight", "norm.bias", "mixer.in_proj.weight", "mixer.conv1d.conv1d.weight", "mixer.conv1d.conv1d.bias"),
    *("mixer.dt_bias", "mixer.A_log", "mixer.D", "mixer.fc_D.weight", "mixer.norm.weight", "mixer.out_proj.weight"),
    *("feed_forward.norm.weight", "feed_forward.norm.bias", "feed_forward.up.weight", "feed_forward.up.bias"),
    *("feed_forward.down.weight", "feed_forward.down.bias"),
)


class _Layer:
    """`PunctuatorLayer`: Hydra mixer and feed-forward."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self._norm = weights["norm.weight"], weights["norm.bias"]
        self._in = columns(weights["mixer.in_proj.weight"])
        self._kernel = np.ascontiguousarray(weights["mixer.conv1d.conv1d.weight"][:, 0].T)  # (2 k + 1, channels)
        self._conv_bias = weights["mixer.conv1d.conv1d.bias"]
        self._dt_bias, self._A = weights["mixer.dt_bias"], -np.exp(weights["mixer.A_log"])
        self._D, self._fc_D = weights["mixer.D"], columns(weights["mixer.fc_D.weight"])
        self._gate, self._out = weights["mixer.norm.weight"], columns(weights["mixer.out_proj.weight"])
        self._ff_norm = weights["feed_forward.norm.weight"], weights["feed_forward.norm.bias"]
        self._up, self._up_bias = columns(weights["feed_forward.up.weight"]), weights["feed_forward.up.bias"]
        self._down, self._down_bias = columns(weights["feed_forward.down.weight"]), weights["feed_forward.down.bias"]
        self._h, self._d = len(self._A), len(self._gate)
        self._n = (self._kernel.shape[1] - self._d) // 4

    def init_state(self) -> LayerState:
        zeros = functools.partial(np.zeros, dtype=np.float32)
        past = len(self._kernel) // 2
        return LayerState(
            zeros((past, self._kernel.shape[1])), zeros((self._h, self._d // self._h, self._n)), zeros(self._d)
        )

    def read(self, x: np.ndarray, state: LayerState, kept: int) -> tuple[np.ndarray, LayerState]:
        """Process words x (t, d), one block; return their outputs and the state after `kept` of them."""
        y, state = self._mix(layer_norm(x, *self._norm), state, kept)
        x = x + y
        inside = silu(layer_norm(x, *self._ff_norm) @ self._up + self._up_bias)
        return x + (inside @ self._down + self._down_bias), state

    def _mix(self, x: np.ndarray, state: LayerState, kept: int) -> tuple[np.ndarray, LayerState]:
        """`samba_asr.nn.mixers.hydra.Hydra.step`."""
        t, h, d = len(x), self._h, self._d
        z, u, dt = np.split(x @ self._in, [d, d + self._kernel.shape[1]], axis=1)
        u, conv = self._convolved(u, state.conv, kept)
        maps = u[:, d:].reshape(t, 2, 2, self._n)  # forward, backward; B, C
        u = np.ascontiguousarray(u[:, :d])
        heads, dt = u.reshape(t, h, -1), np.logaddexp(0, dt.reshape(t, 2, h) + self._dt_bias)
        given = heads, dt[:, 0], maps[:, 0, 0], maps[:, 0, 1]
        reverse = heads[::-1], dt[::-1, 1], maps[::-1, 1, 0], maps[::-1, 1, 1]
        both, steps, B, C = (np.stack(pair) for pair in zip(given, reverse, strict=True))
        y, ssm = self._scan(both, steps, B, C, state.ssm, kept)
        forward, backward = y[0].reshape(t, d), y[1, ::-1].reshape(t, d)
        y = (heads * (u @ self._fc_D + self._D)[:, :, None]).reshape(t, d)
        y[0] += state.last
        y[1:] += forward[:-1]
        y[:-1] += backward[1:]
        y *= silu(z)
        y *= self._gate / np.sqrt(np.square(y).mean(1, keepdims=True) + np.float32(RMS_EPS))
        last = forward[kept - 1].copy() if kept else state.last
        return y @ self._out, LayerState(conv, ssm, last)

    def _convolved(self, u: np.ndarray, state: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
        t, past = len(u), len(state)
        padded = np.concatenate([state, u, np.zeros_like(state)])  # (past + t + past, channels)
        y = self._conv_bias + self._kernel[0] * padded[:t]
        for k in range(1, len(self._kernel)):
            y += self._kernel[k] * padded[k : k + t]
        return silu(y), padded[kept : kept + past].copy()

    def _scan(
        self, x: np.ndarray, dt: np.ndarray, B: np.ndarray, C: np.ndarray, state: np.ndarray, kept: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """S <- exp(dt A) S + dt x B; y = S C, in two rows: forward, which starts with `state`, and backward, with zeros.

        x: (2, t, h, p).  dt: (2, t, h).  B, C: (2, t, n).  state: (h, p, n).
        Return y (2, t, h, p), and the forward state after `kept` steps.
        """
        t, y, after = x.shape[1], np.empty_like(x), state
        both = np.stack([state, np.zeros_like(state)])
        for i in range(0, t, PIECE):
            part = slice(i, i + PIECE)
            inputs = (x[:, part] * dt[:, part, :, None]).swapaxes(1, 2)  # (2, h, m, p)
            total = np.cumsum(
                (dt[:, part] * self._A).swapaxes(1, 2), axis=2
            )  # (2, h, m), log of the decay since `both`
            y[:, part] = _outputs(inputs, total, B[:, part], C[:, part], both).swapaxes(1, 2)
            if i < kept <= i + PIECE:
                m = kept - i
                after = _advanced(inputs[:1, :, :m], total[:1, :, :m], B[:1, i:kept], both[:1])[0]
            if i + PIECE < t:
                both = _advanced(inputs, total, B[:, part], both)
        return y, after


def _outputs(inputs: np.ndarray, total: np.ndarray, B: np.ndarray, C: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Return y (r, h, m, p) of a piece; inputs dt x (r, h, m, p), total (r, h, m), B and C (r, m, n), state (r, h, p, n)."""
    m = total.shape[2]
    since = total[..., None] - total[:, :, None]  # (r, h, m, m), log of the decay between two words
    since += _LATER[:m, :m]
    y = (np.exp(since) * (C @ B.swapaxes(1, 2))[:, None]) @ inputs
    y += np.exp(total)[..., None] * (C[:, None] @ state.swapaxes(2, 3))
    return y


def _advanced(inputs: np.ndarray, total: np.ndarray, B: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Return the state (r, h, p, n) after a piece of at least one word; arguments as of `_outputs`."""
    left = np.exp(total[:, :, -1:] - total)  # decay until the end
    new = (inputs * left[..., None]).swapaxes(2, 3) @ B[:, None]
    return np.exp(total[:, :, -1])[..., None, None] * state + new


_LATER = np.where(np.tri(PIECE, dtype=bool), 0, -np.inf).astype(np.float32)  # hides words from those before them


@functools.cache
def load(path: Path | None = None) -> NumpyPunctuator:
    """Load the shipped network, or that of a file; UserError for a missing or other file."""
    path = path or Path(__file__).with_name(FILE)
    with one_file.refused(path, "punctuation", "samba-asr punctuation"):
        about, weights = one_file.arrays(path)
        vocabulary = Vocabulary(about["vocabulary"].split(), int(about["hashes"]))
        listed = {spelling.lower(): spelling for spelling in about["listed"].split()}
        bias = tuple(map(float, about["bias"].split()))
        if len(bias) != len(MARKS) or len(weights["embedding.weight"]) != vocabulary.size:
            raise ValueError(f"{len(bias)} marks and {vocabulary.size} features")
        return NumpyPunctuator(weights, vocabulary, listed, bias, int(about["layers"]))


def _plain(weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Return a tensor as float32."""
    found = weights[name].astype(np.float32)
    return found * weights[name + SCALE].astype(np.float32) if name + SCALE in weights else found
