"""The trigram of units that CTC-CRF compares a text with (`samba_asr.ops.crf`), counted in the training texts.

It is full: every unit has a probability behind every pair of units.  Witten and Bell's interpolation gives those that were
never seen there their share by how many different ones were:

    p(k | i j) = (c(i j k) + n(i j) p(k | j)) / (c(i j) + n(i j))        n: different units seen behind i j

and so on down to single units, of which each counts once more than it was seen.  Of some 80 phones it takes 2 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from samba_asr.errors import UserError

MOST = 512  # units: a gigabyte of probabilities, and as many products a frame


def trigram(texts: Iterable[Sequence[int]], v: int) -> Tensor:
    """(v, v, v) float32 log p(k | i j), at [i, j, k]; 0 stands before a text, twice, and behind it, as its end.

    UserError for more than 512 units.
    """
    if v > MOST:
        raise UserError(f"loss.crf sums over all pairs of units, and {v} are too many: up to {MOST}, phones best")
    counts = torch.zeros(v * v * v, dtype=torch.float64)
    for text in texts:
        units = torch.tensor([0, 0, *text, 0])
        keys = (units[:-2] * v + units[1:-1]) * v + units[2:]
        counts.index_add_(0, keys, torch.ones(len(keys), dtype=torch.float64))
    three = counts.view(v, v, v)
    two = three.sum(0)
    one = two.sum(0) + 1
    p = one / one.sum()
    for seen in (two, three):
        different = (seen > 0).sum(-1, keepdim=True)
        told = seen.sum(-1, keepdim=True) + different
        p = torch.where(told > 0, (seen + different * p) / told.clamp_min(1), p)
    return p.log().float()


def text_log_prob(trigram: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """(b,) log-probabilities of texts, their ends included: tokens (b, u), of which the first token_lengths (b,) are valid."""
    padding = torch.arange(tokens.shape[1], device=tokens.device) >= token_lengths[:, None]
    edge = tokens.new_zeros(len(tokens), 1)
    units = torch.cat(
        [edge, edge, tokens.masked_fill(padding, 0), edge], 1
    )  # (b, 2 + u + 1): the first 0 behind is the end
    each = trigram[units[:, :-2], units[:, 1:-1], units[:, 2:]]  # (b, u + 1)
    behind = torch.arange(each.shape[1], device=tokens.device) > token_lengths[:, None]
    return each.masked_fill(behind, 0.0).sum(1)
