"""Device checks that the Triton backends of all ops share."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import torch
from torch import Tensor

from samba_asr.errors import UserError, to_install

KERNELS = "SAMBA_ASR_KERNELS"
"""Environment variable: `none` turns the Triton kernels off, `triton` requests them where they are not the default."""

HAS_TRITON = importlib.util.find_spec("triton") is not None  # looked up once: torch.compile cannot trace the search

CAPABILITY = (8, 0)  # of the oldest NVIDIA GPUs (A100) that the kernels are compiled for


def require_triton(x: Tensor, op: str) -> None:
    """Raise UserError, with the fix, if the Triton kernels of `op` cannot process `x`."""
    if not HAS_TRITON:
        raise UserError(f"{op}: backend 'triton' needs the package triton: {to_install('gpu')}")
    if x.dtype == torch.float64:
        raise UserError(f"{op}: backend 'triton' computes in float32, x is float64: use backend 'chunk'")
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError(
            f"{op}: backend 'triton' needs CUDA tensors, x is on {x.device} (to interpret: TRITON_INTERPRET=1)"
        )


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Launch kernels on the device of `x`."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def wants_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return the reason to use the Triton kernels for such tensors, or None.

    They are the default on GPUs of compute capability 8.0 and more: on an H100 their values agreed with the definitions
    (egs/bench/RESULTS.md, "On a GPU").
    """
    asked = os.environ.get(KERNELS, "")
    if asked == "none" or dtype == torch.float64:
        return None
    if asked == "triton" and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"):
        return f"{KERNELS}=triton asks for it"
    if HAS_TRITON and device.type == "cuda" and capability(device) >= CAPABILITY:
        return f"the GPU has compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more ({KERNELS}=none turns it off)"
    return None


def capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a CUDA device."""
    return torch.cuda.get_device_capability(device)


def hint(device: torch.device) -> str:
    """Return why the kernels are not used on a GPU, to append to the reason for another backend; "" on a CPU."""
    if device.type != "cuda":
        return ""
    if os.environ.get(KERNELS) == "none":
        return f" ({KERNELS}=none turns the kernels off)"
    return "" if HAS_TRITON else f" ({to_install('gpu')} for the kernels)"


def choose_fused(device: torch.device, dtype: torch.dtype, t: int) -> tuple[str, str]:
    """Return the backend, and the reason, for an op made of several torch operations or of one Triton launch."""
    if why := wants_triton(device, dtype):
        return "triton", why
    return "torch", "torch's own operations" + hint(device)
