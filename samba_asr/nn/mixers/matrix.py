"""The matrices of a mixer for one utterance: how much each step reads of each other step.

With the step sizes, inputs and outputs of an utterance fixed, a scan of a head is a (t, t) matrix that multiplies its channels:

    F_ij = C_i . B_j exp(A sum_{j < k <= i} dt_k) dt_j,  j <= i       (Dao and Gu, arXiv 2405.21060, eq. 3)

Hydra's (arXiv 2407.09941, definition 3.1) has F moved down by a row below its diagonal, and a backward scan's above it.
It takes t^2 numbers a head, so it is for pictures and tests.
Shapes: t steps, h heads, n state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.nn.blocks import BlockBidirectional, BlockModule, Unidirectional
from samba_asr.nn.mixers.hydra import Hydra
from samba_asr.nn.mixers.mamba2 import Mamba2
from samba_asr.ops.blocks import Blocks, flip


def ssd_matrix(dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Return the matrices (h, t, t) of an SSD scan.  dt (t, h), A (h,), B and C (t, n)."""
    total = (dt * A).cumsum(0).t()  # (h, t)
    decay = (total[:, :, None] - total[:, None, :]).tril()  # at most 0 there; above it, exp may overflow
    return ((C @ B.t()) * decay.exp() * dt.t()[:, None, :]).tril()


def mixer_matrix(mixer: BlockModule, x: Tensor, blocks: Blocks) -> Tensor:
    """Return the matrices (h, t, t) of a mixer for its input x (1, t, d), one utterance without padding.

    h: heads; of a mixer that is two, those of the forward one, then those of the backward one.
    UserError for a mixer whose channels do not share a matrix a head.
    """
    match mixer:
        case Hydra():
            return _hydra(mixer, x, blocks)
        case Unidirectional(mixer=Mamba2() as one):
            return _mamba2(one, x, None)
        case BlockBidirectional(forward_mixer=Mamba2() as one, backward_mixer=Mamba2() as back):
            return torch.cat([_mamba2(one, x, None), _mamba2(back, x, blocks)])
    name = type(getattr(mixer, "forward_mixer", getattr(mixer, "mixer", mixer))).__name__
    raise UserError(f"{name} has no matrix of a head, its channels have their own: hydra and mamba2 have one to show")


def backward_matrix(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, block: Tensor) -> Tensor:
    """Return the matrices (h, t, t) of an SSD scan backward inside blocks; block (t,): the number of each step's block."""
    matrix = ssd_matrix(dt.flip(0), A, B.flip(0), C.flip(0)).flip(1, 2)
    return matrix * (block[:, None] == block)


def block_numbers(blocks: Blocks, t: int) -> Tensor:
    """Return the number (t,) of each step's block, of the first row."""
    if blocks.start is None:
        return torch.zeros(t, dtype=torch.long, device=blocks.rows.device)
    return blocks.start[0].cumsum(0) - 1


def _mamba2(mixer: Mamba2, x: Tensor, blocks: Blocks | None) -> Tensor:
    """Return the matrices of a scan forward in time; with `blocks`, backward inside them."""
    conv = mixer.init_state(1, device=x.device, dtype=x.dtype).conv
    if blocks is None:
        _, dt, B, C, _, _ = mixer.inputs(x, None, conv, None, None)
        return ssd_matrix(dt[0], -mixer.A_log.exp(), B[0], C[0])
    _, dt, B, C, _, _ = mixer.inputs(flip(x, blocks), None, conv, blocks.start, None)
    dt, B, C = (flip(v, blocks)[0] for v in (dt, B, C))
    return backward_matrix(dt, -mixer.A_log.exp(), B, C, block_numbers(blocks, x.shape[1]))


def _hydra(mixer: Hydra, x: Tensor, blocks: Blocks) -> Tensor:
    t = x.shape[1]
    conv = mixer.init_state(1, device=x.device, dtype=x.dtype).conv
    _, dt, B, C, skip, _, _ = mixer.inputs(x, torch.tensor([t], device=x.device), conv, blocks)
    A, block = -mixer.A_log.exp(), block_numbers(blocks, t)
    forward = ssd_matrix(dt[0, :, 0], A, B[0, :, 0, 0], C[0, :, 0, 0])
    backward = backward_matrix(dt[0, :, 1], A, B[0, :, 1, 0], C[0, :, 1, 0], block)
    before = F.pad(forward, (0, 0, 1, 0))[:, :t]  # a step reads the state before it
    after = F.pad(backward, (0, 0, 0, 1))[:, 1:] * (block[:, None] == block)  # and the one after it, of its block
    return before + after + torch.diag_embed(skip[0].t())
