"""Elapsed time in a scan: gaps before steps, and steps that stand for more or less than one.

    gap   tau_t >= 0   steps of which nothing is known, before step t: lost packets, a pause that was not computed
    span  w_t > 0      steps for which step t stands: 2 if two equal steps were merged into one

    Delta_t = w_t dt_t                                             the step's own size
    h_t = exp(A (Delta_t + tau_t idle)) h_{t-1} + Delta_t x_t B_t

`idle` is the step size of an input that says nothing, softplus(dt_bias) in Mamba: no new parameter, so every trained model
understands gaps.  The mask of the scan stays 1-semiseparable, as in TiM4Rec (arXiv 2409.16182), which multiplies its scalars by
learned functions of normalized times.  Here time adds up: a gap of 7 is a gap of 3 and one of 4, and equals 7 steps with x = 0
and dt = idle.  So audio may be cut anywhere.

A scan needs no new kernel: it runs on `wait(x, dt, ...)`.  Convolutions cannot let time pass.  Where a gap has `BREAK` steps or
more, they start again; shorter gaps join what lies around them.
Shapes: b batch, t time, h heads or channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from samba_asr.streaming import mask

BREAK = 5.0
"""Steps of a gap from which convolutions see nothing of the other side: 200 ms."""


class Elapsed(NamedTuple):
    """Elapsed time of the steps of a chunk, in the order in which a scan reads them."""

    gap: Tensor | None = None  # (b, t) steps of nothing before each step
    span: Tensor | None = None  # (b, t) steps for which each step stands; None: one

    @property
    def breaks(self) -> Tensor | None:
        """Steps before which convolutions forget (b, t) bool; None without gaps."""
        return None if self.gap is None else self.gap >= BREAK


def wait(x: Tensor, dt: Tensor, idle: Tensor, elapsed: Elapsed, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return x and dt with which a scan lets the time of `elapsed` pass; D and the gate still read the true x.

    Args:
        x: (b, t, h) or (b, t, h, p) inputs.
        dt: (b, t, h) step sizes, positive.
        idle: (h,) step size of an input that says nothing.
        lengths: (b,) valid steps; the padding may hold anything.
    """
    x, dt = mask(x, lengths), mask(dt, lengths)
    if elapsed.span is not None:
        dt = dt * elapsed.span[..., None]
    if elapsed.gap is None:
        return x, dt
    whole = dt + elapsed.gap[..., None] * idle
    share = (dt / whole.clamp(min=torch.finfo(whole.dtype).tiny)).to(x.dtype)  # dt may underflow
    return x * (share if x.dim() == 3 else share[..., None]), whole


def decay(A: Tensor, idle: Tensor, elapsed: Elapsed) -> Tensor | None:
    """Return exp(A tau idle) (b, t, h), by which a state decays in the gap before each step; None without gaps.

    A: (h,) negative decay rates.
    """
    return None if elapsed.gap is None else torch.exp(elapsed.gap[..., None] * (A * idle))
