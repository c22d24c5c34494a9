"""LongVQ mixer: Mamba-2 with a vector-quantized memory of constant size (Liu et al., arXiv 2404.11163).

Keys k are quantized to the nearest of s codes c, so attention over all the past needs no more than a sum for each code
(Transformer-VQ, arXiv 2309.16354, theorem 3.7).  With z_i the code of step i and w_i how much of it is written:

    o_t = sum_{i <= t} w_i exp(q_t . c_{z_i}) v_i / sum_{i <= t} w_i exp(q_t . c_{z_i})

That is the scan of Mamba-2 with B = one-hot z, C = exp(q . c) and the inputs [v, 1], so the memory streams and can slowly decay.
In speech it is a histogram of sounds with the mean of what each was like in this session: adaptation to speaker and channel.
What is near in time is the task of the scan beside it and of the encoder's convolutions.  So the paper's local attention window
is left out, and nothing depends on where chunks are cut.
Shapes: b batch, t time, d d_model, h heads, p channels of a head, n state, s codes, r values of a key.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import LongVqConfig
from samba_asr.errors import UserError
from samba_asr.nn.blocks import CausalMixer
from samba_asr.nn.codebook import Codebook
from samba_asr.nn.mixers.common import GatedRMSNorm, initial_a_log, initial_dt_bias, no_weight_decay, short_conv
from samba_asr.ops.elapsed import Elapsed, wait
from samba_asr.ops.ssd import ssd
from samba_asr.streaming import Step, mask, valid_mask

KEY = 16  # r
MEMORY = (250.0, 2500.0)  # written frames until the memory of a head has decayed to 1 / e, at first: 10 to 100 s
LEAST = 1e-6  # written of a step: what is read is a mean over what was written, so it must not be nothing


class LongVqState(NamedTuple):
    """State of the LongVQ mixer."""

    conv: Tensor  # (b, d_conv - 1, d_inner + r + h r + 2 n) last inputs of the short convolution
    ssm: Tensor  # (b, h, p, n) float32
    memory: Tensor  # (b, h, p + 1, s) float32: for each code the sum of the values, and last their weight


class LongVq(CausalMixer):
    """LongVQ mixer, forward in time."""

    backward_name: ClassVar[str] = "mamba2"  # a memory that starts again in each block would be none

    def __init__(self, d_model: int, config: LongVqConfig):
        super().__init__()
        d_inner, n = config.expand * d_model, config.d_state
        if d_inner % config.headdim:
            raise UserError(f"expand * d_model = {d_inner} must be a multiple of headdim {config.headdim}")
        if config.codes < 2:
            raise UserError(f"model.mixer.codes={config.codes}: give 2 or more")
        h = d_inner // config.headdim
        self.d_inner, self.heads, self.d_state = d_inner, h, n
        width = d_inner + KEY + h * KEY + 2 * n  # v, k, q, B, C
        self.in_proj = nn.Linear(d_model, d_inner + width + 3 * h, bias=False)  # z, these, dt, write, read
        self.conv1d = nn.Conv1d(width, width, config.d_conv, groups=width)
        self.dt_bias = no_weight_decay(initial_dt_bias(h, config.dt_min, config.dt_max))
        self.A_log = no_weight_decay(initial_a_log(h, config.a_max))
        self.D = no_weight_decay(torch.ones(h))
        rates = torch.empty(h).uniform_(math.log(MEMORY[0]), math.log(MEMORY[1]))
        self.memory_A_log = no_weight_decay(-rates)
        self.write_bias = no_weight_decay(torch.zeros(h))
        self.read_bias = no_weight_decay(torch.full((h,), -2.0))  # the memory starts at an eighth
        self.codebook = Codebook(config.codes, KEY)
        self.norm = GatedRMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def init_state(self, batch, *, device=None, dtype=None):
        conv = torch.zeros(batch, self.conv1d.kernel_size[0] - 1, self.conv1d.in_channels, device=device, dtype=dtype)
        kind = {"device": device, "dtype": torch.float64 if dtype == torch.float64 else torch.float32}
        p = self.d_inner // self.heads
        memory = torch.zeros(batch, self.heads, p + 1, len(self.codebook.counts), **kind)
        return LongVqState(conv, torch.zeros(batch, self.heads, p, self.d_state, **kind), memory)

    def step(
        self,
        x: Tensor,
        lengths: Tensor | None,
        state: LongVqState,
        reset: Tensor | None = None,
        elapsed: Elapsed | None = None,
    ) -> Step:
        """Process x (b, t, d_model).  See `CausalMixer.step`."""
        h, n = self.heads, self.d_state
        z, u, gates = self.in_proj(mask(x, lengths)).split([self.d_inner, self.conv1d.in_channels, 3 * h], dim=-1)
        u, conv = short_conv(self.conv1d, u, state.conv, lengths, reset, elapsed)
        v, k, q, B, C = u.split([self.d_inner, KEY, h * KEY, n, n], dim=-1)
        v = v.unflatten(-1, (h, -1))  # (b, t, h, p)
        dt, write, read = gates.chunk(3, dim=-1)  # (b, t, h) each
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)
        inputs, dt = wait(v, dt, F.softplus(self.dt_bias), elapsed, lengths) if elapsed else (v, dt)
        maps = B.unsqueeze(2), C.unsqueeze(2)
        y, ssm = ssd(inputs, dt, -self.A_log.exp(), *maps, initial_state=state.ssm, lengths=lengths, reset=reset)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 counts to 256
            o, memory = self.remember(v, k, q, write, state.memory, lengths, reset, elapsed)
        y = (
            y
            + self.D.to(v.dtype)[:, None] * v
            + (read + self.read_bias).sigmoid().to(v.dtype)[..., None] * o.to(v.dtype)
        )
        after = LongVqState(conv, ssm, memory)
        return Step(self.out_proj(self.norm(y.flatten(-2), z)), lengths, after)  # pyright: ignore[reportArgumentType]  (None where all steps count)

    def remember(
        self,
        v: Tensor,
        k: Tensor,
        q: Tensor,
        write: Tensor,
        state: Tensor,
        lengths: Tensor | None,
        reset: Tensor | None,
        elapsed: Elapsed | None,
    ) -> tuple[Tensor, Tensor]:
        """Write values v (b, t, h, p) at keys k (b, t, r), and read them by queries q (b, t, h r).

        write: (b, t, h), how much of a step is written, before the sigmoid.  state: (b, h, p + 1, s).
        Returns what is read (b, t, h, p), float32 or wider, zeros in the padding, and the new state.
        """
        kind = state.dtype
        k, q, v, write = (mask(w, lengths).to(kind) for w in (k, q.unflatten(-1, (self.heads, KEY)), v, write))
        k, q = (F.rms_norm(w, (KEY,)) * KEY**-0.25 for w in (k, q))  # so |q . c| is at most sqrt(r), about
        hot = self.codebook(k, lengths)  # (b, t, s)
        scores = (q @ self.codebook.codes.to(kind).T - math.sqrt(KEY)).exp()  # (b, t, h, s)
        x = torch.cat([v, torch.ones_like(v[..., :1])], -1)  # (b, t, h, p + 1)
        bias = self.write_bias.to(kind)
        write = (write + bias).sigmoid().clamp(min=LEAST)
        if elapsed:
            x, write = wait(x, write, bias.sigmoid(), elapsed, lengths)
        B = hot.unsqueeze(2).expand_as(scores)
        A = -self.memory_A_log.to(kind).exp()
        m, memory = ssd(x, write, A, B, scores, initial_state=state, lengths=lengths, reset=reset)
        weight = m[..., -1:]
        if lengths is not None:  # 0 in the padding
            weight = weight.masked_fill(~valid_mask(lengths, m.shape[1])[..., None, None], 1)
        return m[..., :-1] / weight, memory
