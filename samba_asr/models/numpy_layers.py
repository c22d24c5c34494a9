"""Parts of networks in numpy, for recognition without torch.  Rows x (r, d)."""

from __future__ import annotations

import numpy as np

LAYER_EPS = 1e-5  # torch's of LayerNorm


def columns(weight: np.ndarray) -> np.ndarray:
    """Return a matrix (o, i) as one (i, o) in order, by which rows are multiplied in half the time."""
    return np.ascontiguousarray(weight.T)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    x = x - x.mean(1, keepdims=True)
    return x * (weight / np.sqrt(np.square(x).mean(1, keepdims=True) + np.float32(LAYER_EPS))) + bias


def silu(x: np.ndarray) -> np.ndarray:
    half = np.float32(0.5) * x
    return half + half * np.tanh(half)  # x sigmoid(x), without overflow


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))
