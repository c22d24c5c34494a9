"""Time without input in a time-invariant system: many steps of the state at once."""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.lti.dispatch import lti
from samba_asr.ops.lti.system import Prepared

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
    A reset clears the state after the gap before the same step.  Time is cut at the steps where any row has a gap, because a
    state must be known before it can decay.
    """
    t = x.shape[1]
    if gap is None or t == 0:
        return lti(x, system, initial_state=initial_state, lengths=lengths, reset=reset)
    whole = gap.round().clamp(max=MOST).long()
    if lengths is not None:
        whole = whole.masked_fill(torch.arange(t, device=x.device) >= lengths[:, None], 0)
    cuts = [i for i in whole.any(0).nonzero().flatten().tolist() if i]
    state, ys = initial_state, []
    for begin, end in zip([0, *cuts], [*cuts, t], strict=True):
        state = idle(state, system, whole[:, begin])
        left = None if lengths is None else (lengths - begin).clamp(0, end - begin)
        part = None if reset is None else reset[:, begin:end]
        y, state = lti(x[:, begin:end], system, initial_state=state, lengths=left, reset=part)
        ys.append(y)
    return torch.cat(ys, 1), state


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
