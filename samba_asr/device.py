"""Where to compute, and in which dtype: one answer for training, decoding, benchmarks and `samba-asr doctor`."""

from __future__ import annotations

import torch

from samba_asr.errors import UserError


def choose_device(name: str) -> torch.device:
    """auto: CUDA where there is one, else the CPU.  UserError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products: `auto` is bfloat16 on CUDA and on CPUs with AVX512-BF16 or AMX, else float32."""
    if name == "auto":
        quick = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_bfloat16()
        return torch.bfloat16 if quick else torch.float32
    if name not in ("float32", "bfloat16"):
        raise UserError(f"train.dtype={name!r}: write auto, float32 or bfloat16")
    return getattr(torch, name)


def _cpu_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, so they may go
    return any(getattr(torch.cpu, name, bool)() for name in checks)
