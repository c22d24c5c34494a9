"""What the Triton backends of all ops share: whether they can run here, and where."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import torch
from torch import Tensor

from samba_asr.errors import UserError

KERNELS = "SAMBA_ASR_KERNELS"
HINT = f" ({KERNELS}=triton: the kernels, which have not run on a GPU yet)"


def require_triton(x: Tensor, op: str) -> None:
    """UserError, with the way out, where the Triton kernels of `op` cannot take `x`."""
    if importlib.util.find_spec("triton") is None:
        raise UserError(f"{op}: backend 'triton' needs the package triton: pip install 'samba_asr[gpu]'")
    if x.dtype == torch.float64:
        raise UserError(f"{op}: backend 'triton' computes in float32, x is float64: use backend 'chunk'")
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(
            f"{op}: backend 'triton' needs CUDA tensors, x is on {x.device} (to interpret: TRITON_INTERPRET=1)"
        )


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Launch kernels where `x` is."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def wants_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels are to be used for tensors like these, or None.

    They have been interpreted against the definitions and compiled for GPUs, but have not run on one yet; until then whoever
    wants them says so.
    """
    able = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    asked = os.environ.get(KERNELS) == "triton"
    return f"{KERNELS}=triton asks for it" if asked and able and dtype != torch.float64 else None


def choose_fused(device: torch.device, dtype: torch.dtype, t: int) -> tuple[str, str]:
    """The backend of an op that is several of torch's own, or one launch in Triton; and why."""
    if why := wants_triton(device, dtype):
        return "triton", why
    return "torch", "torch's own operations" + HINT * (device.type == "cuda")
