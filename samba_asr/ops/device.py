"""What the Triton backends of all ops share: whether they can run here, and where."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import torch
from torch import Tensor

from samba_asr.errors import UserError


def require_triton(x: Tensor, op: str) -> None:
    """UserError, with the way out, where the Triton kernels of `op` cannot take `x`."""
    if importlib.util.find_spec("triton") is None:
        raise UserError(f"{op}: backend 'triton' needs the package triton: pip install 'samba_asr[gpu]'")
    if x.dtype == torch.float64:
        raise UserError(f"{op}: backend 'triton' computes in float32, x is float64: use backend 'chunk'")
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(f"{op}: backend 'triton' needs CUDA tensors, x is on {x.device} (to interpret: TRITON_INTERPRET=1)")


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Launch kernels where `x` is."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def choose_fused(x: Tensor) -> tuple[str, str]:
    """The backend of ops that are torch's own unless Triton does them in one launch, and why."""
    if not x.is_cuda:
        return "torch", f"torch's own operations, on {x.device.type}"
    return "torch", "the Triton kernels have not run on a GPU yet"
