"""Scans of other packages with the signature of ours, and their mixers, to compare with ours if they are installed.

They take no initial state, no lengths and no resets; some give the final state.  The shapes are those of
`samba_asr.ops.selective_scan` and `samba_asr.ops.ssd`; of mixers, (b, t, d_model) in and out.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn

from samba_asr.config import Mamba2Config, MambaConfig

MODULES = {"mambapy": "mambapy", "mamba-ssm": "mamba_ssm", "fla": "fla"}  # backend -> what is imported
CUDA = {"mamba-ssm", "fla"}  # need it


def runs(name: str, device: str) -> bool:
    """Return whether this peer is installed and runs on this type of device."""
    return importlib.util.find_spec(MODULES[name]) is not None and (device == "cuda" or name not in CUDA)


def _mambapy(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """mambapy's parallel scan, used as `mambapy.mamba.MambaBlock.selective_scan` does."""
    from mambapy.pscan import pscan

    decay = torch.exp(dt.unsqueeze(-1) * A)  # (b, t, d, n)
    states = pscan(decay, dt.unsqueeze(-1) * B.unsqueeze(2) * x.unsqueeze(-1))
    return (states @ C.unsqueeze(-1)).squeeze(3)


def _mamba_ssm_s6(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """state-spaces/mamba's CUDA kernel; time comes last in it."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    x, dt, B, C = (v.mT.contiguous() for v in (x, dt.to(x.dtype), B, C))
    return selective_scan_fn(x, dt, A, B, C).mT


def _mamba_ssm_ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """state-spaces/mamba's Triton kernels."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(x, dt, A, B, C, chunk_size=64)


def _fla(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """fla-core's simple gated linear attention, which is SSD with q = C, k = B, v = dt x and log gate dt A."""
    from fla.ops.simple_gla import chunk_simple_gla

    heads = x.shape[2]
    q, k = (v.expand(-1, -1, heads, -1).contiguous() for v in (C, B))
    y, _ = chunk_simple_gla(q, k, (x * dt.to(x.dtype)[..., None]), g=dt * A, scale=1.0)
    return y


def _mambapy_mamba(d_model: int, config: MambaConfig) -> nn.Module:
    from mambapy.mamba import MambaBlock
    from mambapy.mamba import MambaConfig as Config

    return MambaBlock(
        Config(d_model, n_layers=1, d_state=config.d_state, expand_factor=config.expand, d_conv=config.d_conv)
    )


def _mamba_ssm_mamba(d_model: int, config: MambaConfig) -> nn.Module:
    from mamba_ssm import Mamba

    return Mamba(d_model, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand)


def _mamba_ssm_mamba2(d_model: int, config: Mamba2Config) -> nn.Module:
    from mamba_ssm import Mamba2

    return Mamba2(d_model, d_state=config.d_state, d_conv=config.d_conv, expand=config.expand, headdim=config.headdim)


PEERS = {  # scans, and makers of mixers from d_model and a configuration of ours
    "selective_scan": {"mambapy": _mambapy, "mamba-ssm": _mamba_ssm_s6},
    "ssd": {"mamba-ssm": _mamba_ssm_ssd, "fla": _fla},
    "mamba": {"mambapy": _mambapy_mamba, "mamba-ssm": _mamba_ssm_mamba},
    "mamba2": {"mamba-ssm": _mamba_ssm_mamba2},  # (fla-core's is fast only with mamba-ssm's kernels)
}
