"""Convolutions under the law.  Shapes: b batch, t time, d channels, k kernel, m mels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.errors import UserError
from samba_asr.nn.blocks import BlockModule
from samba_asr.nn.dropout import Dropout
from samba_asr.ops.blocks import Blocks
from samba_asr.ops.conv1d import block_conv1d
from samba_asr.streaming import Step, StreamingModule, mask, tail


class BlockConv1d(BlockModule):
    """Depthwise convolution, centred: `past` steps back without limit, `future` steps ahead inside the block.

    With one block it is a common centred convolution; at a block's end the steps beyond count as zeros.  `silu` at the end.
    """

    def __init__(self, d: int, past: int, future: int, *, silu: bool = False):
        super().__init__()
        self.past, self.silu = past, silu
        self.conv1d = nn.Conv1d(d, d, past + 1 + future, groups=d)

    def init_state(self, batch, *, device=None, dtype=None):
        return torch.zeros(batch, self.past, self.conv1d.in_channels, device=device, dtype=dtype)

    def step(self, x: Tensor, lengths: Tensor, state: Tensor, blocks: Blocks) -> Step:
        weight = self.conv1d.weight[:, 0]  # (d, past + 1 + future)
        y, state = block_conv1d(x, weight, self.conv1d.bias, initial_state=state, blocks=blocks, silu=self.silu)
        return Step(y, lengths, state)


class ConvolutionModule(BlockModule):
    """The Conformer's: pointwise, gated linear unit, depthwise, norm, SiLU, pointwise (arXiv 2005.08100, figure 2).

    LayerNorm stands for its batch norm, whose statistics of a padded batch would break the law.
    """

    def __init__(self, d: int, kernel: int, dropout: float):
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"conv_kernel {kernel} must be odd: as many steps back as ahead")
        self.expand = nn.Linear(d, 2 * d)
        self.depthwise = BlockConv1d(d, kernel // 2, kernel // 2)
        self.norm = nn.LayerNorm(d)
        self.project = nn.Linear(d, d)
        nn.init.zeros_(self.project.weight)  # the module begins as nothing: at first its output, much the same at every
        nn.init.zeros_(self.project.bias)  # step, would only drown what tells the steps apart
        self.dropout = Dropout(dropout)

    def init_state(self, batch, *, device=None, dtype=None):
        return self.depthwise.init_state(batch, device=device, dtype=dtype)

    def step(self, x, lengths, state, blocks):
        x = F.glu(self.expand(mask(x, blocks.ragged)), dim=-1)
        x, lengths, state = self.depthwise.step(x, lengths, state, blocks)
        return Step(self.dropout(self.project(F.silu(self.norm(x)))), lengths, state)


class CausalConv2d(StreamingModule):
    """3 x 3 convolution over time and mel, stride 2 in both, causal in time, then ReLU.

    (b, t, m * c) -> (b, t / 2, m / 2 * c'), channels innermost, so that the law's (b, t, d) holds between layers.
    """

    stride = 2

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
        y = F.relu(self.conv(y)).permute(0, 2, 3, 1).flatten(2)  # (b, t / 2, m / 2 * c')
        return Step(y, lengths // 2, state)


class Project(StreamingModule):
    """A linear map of every step, a norm and dropout: a stateless streaming module.

    The norm brings the input of the residual stream to the size of what the layers add to it; without it their first,
    random outputs drown the signal.
    """

    def __init__(self, d_in: int, d_out: int, dropout: float = 0.0):
        super().__init__()
        self.linear = nn.Linear(d_in, d_out)
        self.norm = nn.LayerNorm(d_out)
        self.dropout = Dropout(dropout)

    def init_state(self, batch, *, device=None, dtype=None):
        return ()

    def step(self, x, lengths, state):
        return Step(self.dropout(self.norm(self.linear(mask(x, lengths)))), lengths, state)


def subsampling(
    mels: int, channels: int, d_model: int, dropout: float = 0.0, factor: int = 4
) -> tuple[StreamingModule, ...]:
    """The layers that turn `factor` frames of `mels` into one of d_model: convolutions that halve both, and a projection.

    UserError where `factor` is no power of 2 from 2 on, or mels are no multiple of it.
    """
    if factor < 2 or factor & (factor - 1):
        raise UserError(f"model.subsampling={factor}: a power of 2, such as 4 (frames of 40 ms) or 8")
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
