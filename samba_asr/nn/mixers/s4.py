"""S4 and S4D mixers: a linear time-invariant system for each channel (Gu et al., arXiv 2111.00396, 2206.11893).

The recurrence of these papers in the block of Mamba: short convolution, SiLU, system, gate.  (S4's own block is the system, GELU,
a linear map to twice the width and a GLU.  state-spaces/mamba names this one Mamba-S4: one block for all mixers compares
recurrences.)

The channels of a head share the system but for C.  `log_dt` begins as an even grid over the heads, because few random draws
leave gaps in the time constants.  The projections are those of `Mamba`; A, B, P are stored as real numbers.
Shapes: b batch, t time, d d_inner, g heads, N states of a channel, n = N / 2 complex pairs of them, r rank.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import S4Config, S4dConfig
from samba_asr.errors import UserError
from samba_asr.nn.blocks import CausalMixer
from samba_asr.nn.mixers.common import no_weight_decay, short_conv
from samba_asr.ops.elapsed import Elapsed
from samba_asr.ops.lti import Prepared, System, lti_with_gaps
from samba_asr.ops.precision import accumulation_dtype
from samba_asr.ops.spectrum import LARGEST_DT, diagonal, hippo
from samba_asr.streaming import Step, mask

UNDAMPED = 1e-4
"""Initial decay of a mode whose spectrum has none.  The low-rank term keeps the system stable."""


class S4State(NamedTuple):
    """State of an S4 or S4D mixer."""

    conv: Tensor  # (b, d_conv - 1, d) last inputs of the short convolution
    ssm: Tensor  # (b, d, N) float32: real parts, then imaginary parts


class _TimeInvariant(CausalMixer):
    """Common base of S4 and S4D, forward in time."""

    A_imag: nn.Parameter | None
    P: nn.Parameter | None

    def __init__(self, d_model: int, config: S4Config | S4dConfig, A: Tensor, B: Tensor, P: Tensor | None):
        """A, B (n,) and P (r, n), complex or real: every head begins with them."""
        super().__init__()
        d = config.expand * d_model
        if d % config.headdim:
            raise UserError(f"expand * d_model = {d} must be a multiple of headdim {config.headdim}")
        heads = d // config.headdim
        self.d_inner, self.heads, self.d_state = d, heads, config.d_state
        self.in_proj = nn.Linear(d_model, 2 * d, bias=False)  # u, z
        self.conv1d = nn.Conv1d(d, d, config.d_conv, groups=d)
        repeat = lambda v: no_weight_decay(v.repeat(heads, *[1] * (v.dim() - 1)))  # noqa: E731
        self.log_A_real = repeat((-A.real).clamp(min=UNDAMPED).log().float()[None])  # (g, n)
        self.A_imag = repeat(A.imag.float()[None]) if A.is_complex() else None  # (g, n)
        self.B = repeat(_stored(B)[None])  # (g, n, 2), or (g, n) if real, as C and P
        self.C = nn.Parameter(torch.randn(d, *_stored(B).shape))
        self.P = None if P is None else no_weight_decay(_stored(P)[:, None].repeat(1, heads, 1, 1))  # (r, g, n, 2)
        largest = min(config.dt_max, LARGEST_DT) if A.is_complex() else config.dt_max
        self.log_dt = no_weight_decay(torch.linspace(math.log(min(config.dt_min, largest)), math.log(largest), heads))
        self.D = no_weight_decay(torch.ones(d))
        self.out_proj = nn.Linear(d, d_model, bias=False)
        self._kept: tuple[list[tuple], Prepared] | None = None

    def init_state(self, batch, *, device=None, dtype=None):
        conv = torch.zeros(batch, self.conv1d.kernel_size[0] - 1, self.d_inner, device=device, dtype=dtype)
        accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        return S4State(conv, torch.zeros(batch, self.d_inner, self.d_state, device=device, dtype=accumulator))

    def step(
        self,
        x: Tensor,
        lengths: Tensor | None,
        state: S4State,
        reset: Tensor | None = None,
        elapsed: Elapsed | None = None,
    ) -> Step:
        """Process x (b, t, d_model).  See `CausalMixer.step`.

        A gap is so many steps without input.  A span is ignored: all steps of a time-invariant system are alike.
        """
        u, z = self.in_proj(mask(x, lengths)).chunk(2, dim=-1)
        u, conv = short_conv(self.conv1d, u, state.conv, lengths, reset, elapsed)
        gap = None if elapsed is None else elapsed.gap
        y, ssm = lti_with_gaps(u, self.prepared(), gap, initial_state=state.ssm, lengths=lengths, reset=reset)
        y = (y + self.D.to(u.dtype) * u) * F.silu(z)
        return Step(self.out_proj(y), lengths, S4State(conv, ssm))  # pyright: ignore[reportArgumentType]  (None where all steps count)

    def prepared(self) -> Prepared:
        """Return the system.  Where nothing trains, it is kept, with the matrices of its chunks, until a parameter changes.

        A recorded CUDA graph reads the kept matrices at their addresses, so nothing else may drop them.
        """
        if torch.is_grad_enabled() or self.training:
            return Prepared(self.system())
        used = [p for p in (self.log_A_real, self.A_imag, self.B, self.C, self.P, self.log_dt) if p is not None]
        if any(p.is_inference() for p in used):  # such tensors do not count their changes
            return Prepared(self.system())
        now = [(p, p.data_ptr(), p.dtype, p._version) for p in used]
        if self._kept is None or any(p is not q or a != b for (p, *a), (q, *b) in zip(now, self._kept[0], strict=True)):
            self._kept = now, Prepared(self.system())
        return self._kept[1]

    def system(self) -> System:
        """Return the parameters as complex numbers, float32 or wider."""
        dtype = accumulation_dtype(self.log_A_real)
        A, C, dt = -self.log_A_real.to(dtype).exp(), self.C.to(dtype), self.log_dt.to(dtype).exp()
        if self.A_imag is None:
            return System(A, self.B.to(dtype), C, dt)
        A = torch.complex(A, self.A_imag.to(dtype))
        B, C = torch.view_as_complex(self.B.to(dtype)), torch.view_as_complex(C)
        return System(A, B, C, dt, None if self.P is None else torch.view_as_complex(self.P.to(dtype)))

    def __getstate__(self):
        return {**self.__dict__, "_kept": None}  # copies compute their own


def _stored(v: Tensor) -> Tensor:
    """Return complex numbers as float32 pairs, real ones as float32."""
    return torch.view_as_real(v.resolve_conj().contiguous()).float() if v.is_complex() else v.float()


class S4(_TimeInvariant):
    """S4: the state matrix begins as one of HiPPO's and stays diagonal plus low rank."""

    def __init__(self, d_model: int, config: S4Config):
        form = hippo(config.init or "legs", config.d_state)
        super().__init__(d_model, config, form.A, form.B, form.P)


class S4d(_TimeInvariant):
    """S4D: the state matrix is diagonal."""

    def __init__(self, d_model: int, config: S4dConfig):
        super().__init__(d_model, config, *diagonal(config.init or "lin", config.d_state), None)
