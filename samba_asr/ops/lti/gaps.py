"""Time without input in a time-invariant system: many steps of the state at once."""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops import rows
from samba_asr.ops.lti.dispatch import lti
from samba_asr.ops.lti.system import Prepared
from samba_asr.streaming import valid_mask

MOST = 256
"""Steps of a gap, at most: what a system has not forgotten by then, it keeps."""


def lti_with_gaps(
    x: Tensor,
    system: Prepared,
    gap: Tensor | None,
    *,
    initial_state: Tensor,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run `lti` where time passes before steps: gap (b, t) steps without input, default none.

    They are rounded to whole steps, at most `MOST`.
    A reset clears the state after the gap before the same step.  A state must be known before it can decay.  So time is cut at
    the steps where any row has a gap; or, as long as that at most doubles the time, the steps without input are inserted.
    """
    t = x.shape[1]
    if gap is None or t == 0:
        return lti(x, system, initial_state=initial_state, lengths=lengths, reset=reset)
    whole = gap.round().clamp(max=MOST).long()
    if lengths is not None:
        whole = whole.masked_fill(torch.arange(t, device=x.device) >= lengths[:, None], 0)
    at = torch.arange(t, device=x.device) + whole.cumsum(1)  # (b, t) where each step is if the others are inserted
    if int(at[:, -1].max()) < 2 * t:
        return _inserted(x, system, at, initial_state, lengths, reset)
    cuts = [i for i in whole.any(0).nonzero().flatten().tolist() if i]
    state, ys = initial_state, []
    for begin, end in zip([0, *cuts], [*cuts, t], strict=True):
        state = idle(state, system, whole[:, begin])
        left = None if lengths is None else (lengths - begin).clamp(0, end - begin)
        part = None if reset is None else reset[:, begin:end]
        y, state = lti(x[:, begin:end], system, initial_state=state, lengths=left, reset=part)
        ys.append(y)
    return torch.cat(ys, 1), state


def _inserted(
    x: Tensor, system: Prepared, at: Tensor, initial_state: Tensor, lengths: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run `lti` on x (b, t, d) with its steps at `at` (b, t), and zeros elsewhere."""
    b, t, d = x.shape
    wide = int(at[:, -1].max()) + 1
    row = torch.arange(b, device=x.device)[:, None]
    valid = torch.ones_like(at, dtype=torch.bool) if lengths is None else valid_mask(lengths, t)
    ends = torch.where(valid, at + 1, 0).amax(1)  # (b,)
    back = torch.where(valid, row * wide + at, -1).flatten()
    source = torch.full((b * wide,), -1, device=x.device)
    source[back[valid.flatten()]] = torch.arange(b * t, device=x.device)[valid.flatten()]
    if reset is not None:
        reset = torch.zeros(b, wide, dtype=torch.bool, device=x.device).scatter(1, at, reset & valid)
    stretched = rows.move(x.reshape(b * t, d), source, back).view(b, wide, d)
    y, state = lti(stretched, system, initial_state=initial_state, lengths=ends, reset=reset)
    return rows.move(y.reshape(b * wide, d), back, source).view(b, t, d), state


def idle(state: Tensor, system: Prepared, steps: Tensor) -> Tensor:
    """Return states (b, d, N) after `steps` (b,) whole steps without input, by the binary digits of their number."""
    if not bool(steps.any()):
        return state
    b, d, n = state.shape
    found = state.view(b, system.system.A.shape[0], -1, n)  # (b, g, h, N)
    for i in range(int(steps.max()).bit_length()):
        taken = (steps >> i & 1).bool().view(b, 1, 1, 1)
        found = torch.where(taken, found @ system.power(i).mT.to(found.dtype), found)
    return found.view(b, d, n)
