"""The definition of the time-invariant models: one loop over time.  Every faster version must agree with it.

b rows, t time steps, g groups, h channels of a group, d = g h; n states or pairs of them, N real states; r rank
"""

from __future__ import annotations

import torch
from torch import Tensor

from samba_asr.ops.lti.system import Prepared, as_complex, as_real, discretize, twice


def lti_naive(
    x: Tensor, prepared: Prepared, initial_state: Tensor, *, lengths: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `dispatch.lti` for the contract.  A step is the five lines of `system.Discrete`.

    Without a low-rank term it is  z = a z + b x,  y = 2 Re(C z).
    """
    system = prepared.system
    a, b, p, K, inverse = discretize(system)
    rows, t, d = x.shape
    groups, n = a.shape
    u = x.view(rows, t, groups, d // groups, 1)  # (b, t, g, h, 1)
    C, z = system.C.view(groups, -1, n), as_complex(initial_state, a).view(rows, groups, d // groups, n)
    a, b = a[:, None], b[:, None]  # (g, 1, n)
    valid = torch.ones(rows, t, dtype=torch.bool, device=x.device)
    if lengths is not None:
        valid = torch.arange(t, device=x.device) < lengths[:, None]
    ys = [x.new_zeros(rows, 0, d)]
    for i in range(t):
        before = z if reset is None else z.masked_fill((reset & valid)[:, i, None, None, None], 0)
        after = a * before + b * u[:, i]  # w
        if system.P is not None and p is not None and K is not None and inverse is not None:
            seen = lambda z, P=system.P: twice(z) * torch.einsum("rgn,bghn->bghr", P.conj(), z).real  # noqa: E731
            f = torch.einsum("grs,bghs->bghr", inverse, seen(before) + seen(after))
            after = after - torch.einsum("rgn,bghr->bghn", p, f.to(p.dtype))
        z = torch.where(valid[:, i, None, None, None], after, z)
        ys.append(twice(z) * (C * z).sum(-1).real.reshape(rows, 1, d))
    y = torch.cat(ys, 1)
    return y.masked_fill(~valid[..., None], 0), as_real(z.reshape(rows, d, n))
