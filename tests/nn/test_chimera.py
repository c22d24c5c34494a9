"""Chimera's layer over time and bands: the contract, the formula cell by cell, and what reaches what."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samba_asr.errors import UserError
from samba_asr.nn.chimera import Chimera2d
from tests.contract import awake, parameter_shapes, verify_streaming

BANDS, CHANNELS, N = 5, 4, 3


def make(**values):
    torch.manual_seed(0)
    return Chimera2d(BANDS, CHANNELS, N, **values).double()


def x(b=4, t=9):
    return torch.randn(b, t, BANDS * CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def run(module, v):
    return module(v, torch.full((len(v),), v.shape[1]))[0]


def test_the_law():
    verify_streaming(make(), x())


def test_it_begins_as_the_identity():
    assert torch.equal(run(make(), x()), x())


def test_every_cell_by_the_formula():
    m, v = awake(make()), x(1, 6)
    cells = v[0].view(6, BANDS, CHANNELS)
    u, z = m.in_proj(cells).chunk(2, -1)
    u = F.silu(u)
    y = m.D * u
    for direction, bands in enumerate((range(BANDS), reversed(range(BANDS)))):
        bands = list(bands)
        maps = m.x_proj[direction](u)
        B1, B2, C1, C2, dt1, dt2 = maps.split([N, N, N, N, 2, 2], -1)
        for head in (0, 1):
            h = 2 * direction + head
            m1, m2 = torch.sigmoid(m.mix[:, h])
            a1, a2 = m.A_log[:, h].exp()
            channels = slice(2 * head, 2 * head + 2)
            h1 = torch.zeros(7, BANDS, N, 2)  # row t + 1 is step t
            h2 = torch.zeros(7, BANDS, N, 2)
            for t in range(6):
                for i, band in enumerate(bands):
                    d1 = F.softplus(dt1[t, band, head] + m.dt_bias[0, h])
                    d2 = F.softplus(dt2[t, band, head] + m.dt_bias[1, h])
                    entering = u[t, band, channels]
                    past = (1 - m1) * h1[t, band] + m1 * h2[t, band]
                    h1[t + 1, band] = torch.exp(-d1 * a1) * past + d1 * B1[t, band, :, None] * entering
                    h2[t + 1, band] = d2 * B2[t, band, :, None] * entering
                    if i:
                        below = m2 * h1[t + 1, bands[i - 1]] + (1 - m2) * h2[t + 1, bands[i - 1]]
                        h2[t + 1, band] += torch.exp(-d2 * a2) * below
                    y[t, band, channels] += C1[t, band] @ h1[t + 1, band] + C2[t, band] @ h2[t + 1, band]
    want = cells + m.out_proj(y * F.silu(z))
    torch.testing.assert_close(run(m, v)[0], want.flatten(1))


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("band", range(BANDS))
def test_a_band_reaches_all_bands_of_the_same_frame_and_no_earlier_one(band):
    m, changed = awake(make()), x(1)
    changed[0, 4, CHANNELS * band : CHANNELS * (band + 1)] += 1
    offset = (run(m, changed) - run(m, x(1))).abs().view(9, BANDS, CHANNELS).amax(-1)
    assert not offset[:4].any()
    assert (offset[4:] > 1e-9).all()


def test_parameters():
    assert parameter_shapes(make()) == {
        "in_proj.weight": (8, 4),
        "in_proj.bias": (8,),
        "x_proj.0.weight": (4 * N + 4, 4),
        "x_proj.1.weight": (4 * N + 4, 4),
        "dt_bias": (2, 4),
        "A_log": (2, 4),
        "mix": (2, 4),
        "D": (4,),
        "out_proj.weight": (4, 4),
        "out_proj.bias": (4,),
    }
    spared = {n for n, p in make().named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert spared == {"dt_bias", "A_log", "mix", "D"}


def test_the_trend_head_begins_with_smaller_steps_than_the_seasonal_one():
    for _ in range(20):
        trend, seasonal = F.softplus(Chimera2d(BANDS, CHANNELS).dt_bias[0]).view(2, 2).unbind(1)
        assert (trend > 0.00099).all()
        assert (trend < 0.101).all()
        assert (seasonal > 0.099).all()
        assert (seasonal < 1.01).all()


def test_the_heads_must_divide_the_channels():
    with pytest.raises(UserError, match=r"model\.subsampling_channels=5 must be a multiple of 2"):
        Chimera2d(BANDS, 5)
