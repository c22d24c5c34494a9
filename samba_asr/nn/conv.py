"""Streaming convolutions.  Shapes: b batch, t time, d channels, k kernel, m mels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.errors import UserError
from samba_asr.nn.blocks import BlockModule
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.linear import Linear
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.conv1d import block_conv1d
from samba_asr.streaming import Step, StreamingModule, mask, tail


class BlockConv1d(BlockModule):
    """Centered depthwise convolution over `past` steps before, in any block, and `future` steps ahead, inside the block.

    Steps ahead in the next block count as zeros; with one block it is the usual centered convolution.  silu: apply SiLU.
    """

    def __init__(self, d: int, past: int, future: int, *, silu: bool = False):
        super().__init__()
        self.past, self.silu = past, silu
        self.conv1d = nn.Conv1d(d, d, past + 1 + future, groups=d)

    def init_state(self, batch, *, device=None, dtype=None):
        return torch.zeros(batch, self.past, self.conv1d.in_channels, device=device, dtype=dtype)

    def step(self, x: Tensor, lengths: Tensor, state: Tensor, blocks: Blocks) -> Step:
        weight = self.conv1d.weight.squeeze(1)  # (d, past + 1 + future)
        y, state = block_conv1d(x, weight, self.conv1d.bias, initial_state=state, blocks=blocks, silu=self.silu)
        return Step(y, lengths, state)


class ConvolutionModule(BlockModule):
    """Conformer's convolution module: pointwise, GLU, depthwise, norm, SiLU, pointwise (arXiv 2005.08100, figure 2).

    LayerNorm replaces the batch norm, whose statistics depend on the padding and would break the streaming contract.
    """

    def __init__(self, d: int, kernel: int, dropout: float):
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"conv_kernel {kernel} must be odd: as many steps before as ahead")
        self.expand = Linear(d, 2 * d)
        self.depthwise = BlockConv1d(d, kernel // 2, kernel // 2)
        self.norm = nn.LayerNorm(d)
        self.project = Linear(d, d)
        nn.init.zeros_(
            self.project.weight
        )  # the module starts at zero: its untrained output is nearly the same at every
        nn.init.zeros_(self.project.bias)  # step, and would drown the differences between steps
        self.dropout = Dropout(dropout)

    def init_state(self, batch, *, device=None, dtype=None):
        return self.depthwise.init_state(batch, device=device, dtype=dtype)

    def step(self, x, lengths, state, blocks):
        x = F.glu(self.expand(blocks.mask(x)), dim=-1)
        x, lengths, state = self.depthwise.step(x, lengths, state, blocks)
        return Step(self.dropout(self.project(F.silu(self.norm(x)))), lengths, state)


class CausalConv2d(StreamingModule):
    """3 x 3 convolution over time and mel, stride 2 in both, causal in time, then ReLU.

    (b, t, m * c) -> (b, t / 2, m / 2 * c'), channels innermost, so that layers exchange (b, t, d).
    """

    stride = 2
    exportable = True

    def __init__(self, mels: int, c_in: int, c_out: int):
        super().__init__()
        if mels % 2:
            raise UserError(f"{mels} mels must be even to be halved")
        self.mels, self.c_in = mels, c_in
        self.conv = nn.Conv2d(c_in, c_out, kernel_size=3, stride=2, padding=(0, 1))

    def init_state(self, batch, *, device=None, dtype=None):
        return torch.zeros(batch, 1, self.mels * self.c_in, device=device, dtype=dtype)  # kernel - stride = 1 step

    def step(self, x, lengths, state):
        x = torch.cat([state, mask(x, lengths)], dim=1)  # (b, 1 + t, m * c)
        state = tail(x, lengths, 1)
        if x.shape[1] < 3:
            y = x.new_zeros(x.shape[0], 0, self.mels // 2 * self.conv.out_channels)
            return Step(y, lengths // 2, state)
        y = x.unflatten(2, (self.mels, self.c_in)).permute(0, 3, 1, 2)  # (b, c, 1 + t, m)
        if self.mels == 2:  # never one result a row: oneDNN leaves some of those unwritten in bfloat16 on AMX
            y = F.pad(y, (0, 2))
        y = F.relu(self.conv(y))[..., : self.mels // 2].permute(0, 2, 3, 1).flatten(2)  # (b, t / 2, m / 2 * c')
        return Step(y, lengths // 2, state)


class Project(StreamingModule):
    """A stateless streaming module: a linear map of every step, a norm and dropout.

    The norm scales the input of the residual stream to the size of the layers' outputs.  Without it their untrained,
    random outputs drown the signal.
    """

    exportable = True

    def __init__(self, d_in: int, d_out: int, dropout: float = 0.0):
        super().__init__()
        self.linear = Linear(d_in, d_out)
        self.norm = nn.LayerNorm(d_out)
        self.dropout = Dropout(dropout)

    def init_state(self, batch, *, device=None, dtype=None):
        return ()

    def step(self, x, lengths, state):
        return Step(self.dropout(self.norm(self.linear(mask(x, lengths)))), lengths, state)


def subsampling(
    mels: int, channels: int, d_model: int, dropout: float = 0.0, factor: int = 4
) -> tuple[StreamingModule, ...]:
    """Return the layers that turn `factor` frames of `mels` into one of d_model: convolutions of stride 2, and a projection.

    UserError if `factor` is not a power of 2 from 2 up, or `mels` not a multiple of it.
    """
    if factor < 2 or factor & (factor - 1):
        raise UserError(f"model.subsampling={factor}: give a power of 2, such as 4 (frames of 40 ms) or 8")
    if mels % factor:
        raise UserError(
            f"{mels} mels must be a multiple of {factor}: each convolution of model.subsampling={factor} halves them"
        )
    layers: list[StreamingModule] = []
    c = 1
    while factor > 1:
        layers.append(CausalConv2d(mels, c, channels))
        mels, c, factor = mels // 2, channels, factor // 2
    return (*layers, Project(mels * channels, d_model, dropout))
