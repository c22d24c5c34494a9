"""Choice of device and dtype, the same for training, decoding, benchmarks and `samba-asr doctor`."""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is CUDA if available, else the CPU.  UserError for an unusable device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Copy x to a device, without waiting for what the device does; x itself if it is there."""
    return (x.pin_memory() if device.type == "cuda" and not x.is_cuda else x).to(device, non_blocking=True)


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products; `auto` is bfloat16 if CUDA supports it or the CPU has AVX512-BF16 or AMX.

    Otherwise `auto` is float32.
    """
    if name == "auto":
        quick = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_bfloat16()
        return torch.bfloat16 if quick else torch.float32
    if name not in ("float32", "bfloat16"):
        raise UserError(f"train.dtype={name!r}: write auto, float32 or bfloat16")
    return getattr(torch, name)


def _cpu_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: a later torch may remove them
    return any(getattr(torch.cpu, name, bool)() for name in checks)
