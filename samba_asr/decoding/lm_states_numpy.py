"""A Mamba language model in numpy, for `samba_asr.decoding.lattice_lm` without torch: the twin of `samba_asr.decoding.lm_states`.

It computes in float32, the compiled convolution and scan included where numba is installed.  Experts and memories need torch.

    r  steps of a call   v  units   d  d_model   c  channels of the convolution   h  heads   p  channels of a head   n  state
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samba_asr.decoding.slots import SLOTS, Slots, kernels
from samba_asr.models import one_file
from samba_asr.models.numpy_layers import columns, layer_norm, log_softmax, silu

FILE = "lm.safetensors"  # as `samba_asr.models.lm_folder` has it, which needs torch
RMS_EPS = 1e-5  # `GatedRMSNorm`'s


class _Layer(NamedTuple):
    """Weights of one `samba_asr.models.lm.LmLayer`; matrices are transposed."""

    norm: tuple[np.ndarray, np.ndarray]
    in_proj: np.ndarray  # (d, 2 h p + 2 n + h)
    taps: np.ndarray  # (c, k)
    conv_bias: np.ndarray
    dt_bias: np.ndarray  # (h,)
    A: np.ndarray  # (h,)
    D: np.ndarray  # (h,)
    gate: np.ndarray  # (h p,)
    out_proj: np.ndarray  # (h p, d)
    inner_norm: tuple[np.ndarray, np.ndarray]
    up: tuple[np.ndarray, np.ndarray]
    down: tuple[np.ndarray, np.ndarray]
    state: tuple[int, int, int]  # (h, p, n)


class NumpyLm:
    """The weights of a `samba_asr.models.lm.MambaLm`."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        """weights: by the names of `MambaLm`.  KeyError or ValueError for those of another network."""
        plain = {name: np.asarray(x, np.float32) for name, x in weights.items()}
        take = _Taken(plain)
        self.embedding = take("embedding.weight")
        v, d = self.embedding.shape
        count = len({name.split(".")[1] for name in weights if name.startswith("layers.")})
        self.layers = [_layer(take, f"layers.{i}.", d) for i in range(count)]
        self.norm = take("norm.weight", d), take("norm.bias", d)
        self.output, self.output_bias = columns(take("output.weight", v, d)), take("output.bias", v)
        if left := sorted(plain.keys() - take.names):
            raise ValueError(f"unknown weights {', '.join(left[:3])}")

    @classmethod
    def read(cls, folder: Path) -> NumpyLm | None:
        """Read the folder of a language model; None for one with experts or a memory, UserError for a missing or damaged file."""
        with one_file.refused(folder / FILE, "language", "samba-asr lm mamba"):
            _, weights = one_file.arrays(folder / FILE)
            if any(".experts." in name or name.startswith("memory.") for name in weights):
                return None
            return cls(weights)


class _Taken:
    """Weights by name, checked for their shapes, and the names that were asked for."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self.weights, self.names = weights, set[str]()

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        found = self.weights[name]
        self.names.add(name)
        if shape and found.shape != shape:
            raise ValueError(f"{name} has shape {found.shape}, not {shape}")
        if not np.isfinite(found).all():
            raise ValueError(f"{name} is not finite")
        return found


def _layer(take: _Taken, at: str, d: int) -> _Layer:
    gate = take(at + "mixer.norm.weight")
    (inner,), (h,) = gate.shape, take(at + "mixer.A_log").shape
    c, _, k = take(at + "mixer.conv1d.weight").shape
    (wide,) = take(at + "feed_forward.up.bias").shape
    if inner % h or (c - inner) % 2:
        raise ValueError(f"{at}mixer: {inner} channels for {h} heads, {c} in the convolution")
    return _Layer(
        norm=(take(at + "norm.weight", d), take(at + "norm.bias", d)),
        in_proj=columns(take(at + "mixer.in_proj.weight", inner + c + h, d)),
        taps=np.ascontiguousarray(take(at + "mixer.conv1d.weight", c, 1, k)[:, 0]),
        conv_bias=take(at + "mixer.conv1d.bias", c),
        dt_bias=take(at + "mixer.dt_bias", h),
        A=-np.exp(take(at + "mixer.A_log", h)),
        D=take(at + "mixer.D", h),
        gate=gate,
        out_proj=columns(take(at + "mixer.out_proj.weight", d, inner)),
        inner_norm=(take(at + "feed_forward.norm.weight", d), take(at + "feed_forward.norm.bias", d)),
        up=(columns(take(at + "feed_forward.up.weight", wide, d)), take(at + "feed_forward.up.bias", wide)),
        down=(columns(take(at + "feed_forward.down.weight", d, wide)), take(at + "feed_forward.down.bias", d)),
        state=(h, inner // h, (c - inner) // 2),
    )


class NumpyLmStates(Slots):
    """Pool of states.  A slot stands for a text."""

    def __init__(self, lm: NumpyLm, compiled: bool | None = None):
        """compiled: whether to use numba; default: if it is installed."""
        super().__init__()
        self.lm = lm
        self._convolve, self._advance = kernels(compiled)
        self._conv = [_empty(SLOTS, layer.taps.shape[1] - 1, layer.taps.shape[0]) for layer in lm.layers]
        self._ssm = [_empty(SLOTS, *layer.state) for layer in lm.layers]

    def _clear(self, slot: int) -> None:
        for conv, ssm in zip(self._conv, self._ssm, strict=True):
            conv[slot], ssm[slot] = 0, 0

    def _double(self) -> None:
        self._conv = [np.concatenate([x, np.empty_like(x)]) for x in self._conv]
        self._ssm = [np.concatenate([x, np.empty_like(x)]) for x in self._ssm]

    def extend(self, source: Sequence[int], target: Sequence[int], units: Sequence[int]) -> np.ndarray:
        """See `Slots.extend`."""
        before, after = np.array(source), np.array(target)
        x = self.lm.embedding[np.array(units)]  # (r, d)
        for layer, conv, ssm in zip(self.lm.layers, self._conv, self._ssm, strict=True):
            x = x + self._mixed(layer, layer_norm(x, *layer.norm), before, after, conv, ssm)
            inside = silu(layer_norm(x, *layer.inner_norm) @ layer.up[0] + layer.up[1])
            x = x + (inside @ layer.down[0] + layer.down[1])
        return log_softmax(layer_norm(x, *self.lm.norm) @ self.lm.output + self.lm.output_bias)

    def _mixed(
        self, layer: _Layer, x: np.ndarray, source: np.ndarray, target: np.ndarray, conv: np.ndarray, ssm: np.ndarray
    ) -> np.ndarray:
        """Mamba-2's step (`samba_asr.nn.mixers.mamba2`) for one unit, from and to slots."""
        (h, p, n), c = layer.state, len(layer.taps)
        z, inputs, dt = np.split(x @ layer.in_proj, [h * p, h * p + c], axis=1)
        u = _empty(*inputs.shape)
        self._convolve(conv, source, target, np.ascontiguousarray(inputs), layer.taps, layer.conv_bias, u)
        u = silu(u)
        heads, dt = u[:, : h * p].reshape(-1, h, p), np.logaddexp(0, dt + layer.dt_bias)
        B, C = (np.ascontiguousarray(part) for part in (u[:, h * p : h * p + n], u[:, h * p + n :]))
        y = _empty(*heads.shape)
        self._advance(ssm, source, target, np.exp(dt * layer.A), heads * dt[..., None], B, C, y)
        y = (y + layer.D[:, None] * heads).reshape(len(x), -1) * silu(z)
        y *= layer.gate / np.sqrt(np.square(y).mean(1, keepdims=True) + np.float32(RMS_EPS))
        return y @ layer.out_proj


def _empty(*shape: int) -> np.ndarray:
    return np.empty(shape, np.float32)
