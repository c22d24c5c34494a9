"""Depthwise convolutions over time, with state.

causal.py   past steps only: the definition, and a version that is fast on CPUs
block.py    past steps, and steps ahead inside a block
triton.py   both, with SiLU, in one launch forward and two backward
"""

from __future__ import annotations

from samba_asr.ops.conv1d.block import block_conv1d, choose
from samba_asr.ops.conv1d.causal import causal_conv1d, causal_conv1d_naive, depthwise_conv1d

__all__ = ["block_conv1d", "causal_conv1d", "causal_conv1d_naive", "choose", "depthwise_conv1d"]
