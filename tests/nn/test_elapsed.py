"""Elapsed time in mixers, layers and the encoder: the streaming contract with gaps, and what a gap means."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from samba_asr.config import MIXERS, Mamba2Config, mixer_config
from samba_asr.models.acoustic import AcousticModel
from samba_asr.models.encoder import Encoder, EncoderLayer
from samba_asr.nn.mixers import Hydra, build_mixer, mixers
from samba_asr.ops.blocks import elapse, lay_blocks
from samba_asr.streaming import leaves
from tests.contract import AtBlock, InBlocks, awake, verify_streaming
from tests.models.tiny import FRAME, noise, tiny

TINY = Mamba2Config(d_state=4, headdim=4, d_conv=4)
D = 8
NAMES = tuple(mixers)


def built(name, **values):
    """The smallest mixer of this name."""
    values = {"d_state": 4, "headdim": 4, "d_conv": 4} | values
    return build_mixer(D, mixer_config(name, **{k: v for k, v in values.items() if hasattr(MIXERS[name](), k)}))


def timed(b=4, t=13, d=D):
    """Return x (b, t, d + 1); the last channel is the gap before each step: often none, sometimes more than `BREAK`."""
    g = torch.Generator().manual_seed(0)
    gap = torch.tensor([0.0, 0.0, 0.0, 0.7, 3.0, 7.0])[torch.randint(6, (b, t, 1), generator=g)]
    return torch.cat([torch.randn(b, t, d, generator=g), gap], 2).double()


class GapsInBlocks(InBlocks):
    """A block module with elapsed time; the last input channel is the gap."""

    def step(self, x, lengths, state):
        size, inner = state
        blocks = elapse(lay_blocks(lengths, x.shape[1], size), x[..., -1])
        y, lengths, inner = self.module.step(x[..., :-1], lengths, inner, blocks)
        return y, lengths, (size, inner)

    def forward(self, x, lengths):
        return self.module(x[..., :-1], lengths, elapse(lay_blocks(lengths, x.shape[1], self.size), x[..., -1]))


class GapsAtBlock(AtBlock):
    """The encoder with elapsed time; the last input channel is the gap, which is given, not learned: 0 is no gap at all."""

    def step(self, x, lengths, state):
        return self.module.step(x[..., :-1], lengths, state, x[..., -1].detach())

    def forward(self, x, lengths):
        return self.module(x[..., :-1], lengths, self.block, self.hop, x[..., -1].detach())


# --- the contract


@pytest.mark.parametrize("size", [1, 3, 100, (1, 2, 6, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_every_mixer_keeps_the_law_with_gaps(name, size):
    verify_streaming(GapsInBlocks(built(name), size), timed(), seeds=[0])


def test_a_mixer_that_runs_forward_alone_keeps_the_law_with_gaps():
    verify_streaming(GapsInBlocks(built("mamba2", bidirectional=False), 3), timed(), seeds=[0])


@pytest.mark.parametrize("size", [3, (1, 2, 6, 3)])
def test_a_layer_keeps_the_law_with_gaps(size):
    verify_streaming(GapsInBlocks(EncoderLayer(tiny("hydra")), size), timed(), seeds=[0])


@pytest.mark.parametrize("mixer", ["hydra", "mamba"])
@pytest.mark.parametrize(
    ("block", "hop"), [(1, None), (3, None), ((2, 1, 6, 5), None), (4, 2), ((2, 5, 6, 3), (1, 3, 6, 2))]
)
def test_the_encoder_keeps_the_law_with_gaps(mixer, block, hop):
    verify_streaming(GapsAtBlock(Encoder(tiny(mixer)), block, hop), timed(), seeds=[0])


# --- meaning


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [None, 4])
def test_gaps_of_nothing_change_nothing(name, keep):
    module = built(name).double()
    x, lengths = timed()[..., :-1], torch.tensor([13, 7, 0, 1])
    blocks = lay_blocks(lengths, 13, 5)._replace(keep=None if keep is None else lengths.clamp(max=keep))
    state = module.init_state(4, dtype=x.dtype)
    plain, timeless = (module.step(x, lengths, state, v) for v in (blocks, elapse(blocks, torch.zeros(4, 13))))
    for a, b in zip([plain.x[0], *leaves(plain.state)], [timeless.x[0], *leaves(timeless.state)], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["mamba", "mamba2", "hydra"])
def test_after_a_gap_without_end_a_row_begins_anew(name):
    """Every state of a selective mixer decays to nothing, and no convolution reaches across."""
    module = built(name).double()
    x, lengths, gap = timed(1)[..., :-1], torch.tensor([13]), torch.zeros(1, 13)
    gap[0, 6] = 1e9
    y = module(x, lengths, elapse(lay_blocks(lengths, 13, 100), gap))[0]
    first = module(x[:, :6], torch.tensor([6]), lay_blocks(torch.tensor([6]), 6, 100))[0]
    second = module(x[:, 6:], torch.tensor([7]), lay_blocks(torch.tensor([7]), 7, 100))[0]
    torch.testing.assert_close(y, torch.cat([first, second], 1))


@pytest.mark.parametrize("name", ["mamba", "mamba2", "hydra"])
def test_the_longer_a_gap_the_less_remains_of_what_was_before(name):
    module = built(name).double()
    x, lengths = timed(1)[..., :-1], torch.tensor([13])
    changed = x.clone()
    changed[:, :3] += 1

    def influence(steps):
        gap = torch.zeros(1, 13)
        gap[0, 6] = steps
        blocks = elapse(lay_blocks(lengths, 13, 3), gap)
        return (module(x, lengths, blocks)[0] - module(changed, lengths, blocks)[0])[:, 6:].norm()

    found = [influence(steps) for steps in (5, 10, 100, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.01 * found[-1]


def test_hydra_with_gaps_is_a_quasiseparable_matrix_of_times():
    """arXiv 2407.09941, definition 3.1: between step j and what step i reads lie the steps between them and all gaps."""
    t = 7
    m = Hydra(D, TINY).double()
    x, lengths, gap = timed(1, t)[..., :-1], torch.tensor([t]), torch.tensor([[2.0, 0, 0.5, 3, 0, 4, 1]]).double()
    n = TINY.d_state
    z, u, dt = m.in_proj(x[0]).split([16, 16 + 4 * n, 2 * 4], -1)
    blocks = elapse(lay_blocks(lengths, t, t), gap)
    u = m.conv1d.step(u[None], lengths, m.conv1d.init_state(1, dtype=x.dtype), blocks).x[0]
    u, B, C, B_, C_ = u.split([16, n, n, n, n], -1)
    dt, dt_ = (F.softplus(part + m.dt_bias) for part in dt.chunk(2, -1))
    A, idle, skip = -m.A_log.exp(), F.softplus(m.dt_bias), u @ m.fc_D.weight.T + m.D
    matrix = x.new_zeros(4, t, t)
    for head, i, j in itertools.product(range(4), range(t), range(t)):
        between = idle[head] * gap[0, min(i, j) + 1 : max(i, j) + 1].sum()
        if i == j:
            matrix[head, i, j] = skip[i, head]
        elif i > j:
            passed = dt[j + 1 : i, head].sum() + between
            matrix[head, i, j] = C[i - 1] @ B[j] * dt[j, head] * torch.exp(A[head] * passed)
        else:
            passed = dt_[i + 1 : j, head].sum() + between
            matrix[head, i, j] = C_[i + 1] @ B_[j] * dt_[j, head] * torch.exp(A[head] * passed)
    y = torch.einsum("hij,jhp->ihp", matrix, u.view(t, 4, 4)).flatten(1) * F.silu(z)
    want = m.out_proj(F.rms_norm(y, (16,), m.norm.weight, 1e-5))
    torch.testing.assert_close(m(x, lengths, blocks)[0][0], want)


# --- pauses


def test_a_pause_releases_what_waits_and_keeps_the_state():
    """Equal to layers that read the frames before the pause, then, from their states, those after it."""
    encoder = awake(Encoder(tiny("hydra"))).double().eval()
    x, gap = noise(2, 14, 8).double(), torch.zeros(2, 6)
    gap[:, 0] = torch.tensor([40.0, 9.0])
    lengths, rest = torch.tensor([8, 5]), torch.tensor([6, 6])
    state = encoder.init_state(2, block=6, hop=3, dtype=x.dtype)
    _, n, state = encoder.step(x[:, :8], lengths, state)
    _, m, state = encoder.pause(state)
    assert (n + m).tolist() == lengths.tolist()
    assert not state.held.any()
    second, _, _ = encoder.step(x[:, 8:], rest, state, gap)

    for row in range(2):
        layers = encoder.init_state(1, block=6, hop=3, dtype=x.dtype)
        _, _, after = encoder.step(x[row : row + 1, : lengths[row]], lengths[row : row + 1], layers)
        blocks = lay_blocks(after.held, int(after.held), 6)
        states = encoder.one_block(after.waiting[:, : int(after.held)], after.layers, blocks)[1]
        whole = lay_blocks(torch.tensor([6]), 6, 6)
        want, _ = encoder.one_block(x[row : row + 1, 8:], states, elapse(whole, gap[row : row + 1]))
        torch.testing.assert_close(second[row, :3], want[0, :3])


def test_the_acoustic_model_takes_a_gap_before_a_chunk():
    acoustic = awake(AcousticModel(tiny("hydra"))).double().eval()
    x, lengths = noise(2, 8 * FRAME, 1).double(), torch.tensor([8, 8]) * FRAME
    gap = torch.zeros(2, 8)
    gap[0, 4] = 6.5
    want, _ = acoustic(x, lengths, 3, None, gap)
    state = acoustic.init_state(2, block=3, dtype=x.dtype)
    half = torch.tensor([4, 4]) * FRAME
    first, n, state = acoustic.step(x[:, : 4 * FRAME], half, state)
    second, m, state = acoustic.step(x[:, 4 * FRAME :], half, state, torch.tensor([6.5, 0]))
    last, k = acoustic.finish(state)
    assert (n + m + k).tolist() == [8, 8]
    torch.testing.assert_close(torch.cat([first, second, last], 1), want)
    plain, _ = acoustic(x, lengths, 3)
    assert torch.equal(plain[1], want[1]) or torch.allclose(plain[1], want[1], rtol=0, atol=1e-12)
    assert not torch.allclose(plain[0, 4:], want[0, 4:])


def test_without_gaps_no_operation_is_added():
    """`gap=None` takes the same path as before: the outputs are equal bit for bit, and so are the states."""
    encoder = awake(Encoder(tiny("hydra"))).eval()
    x, lengths = noise(2, 8, 8), torch.tensor([8, 5])
    seen = []
    for layer in encoder.layers:
        step = layer.mixer.step
        layer.mixer.step = lambda *a, step=step: (seen.append(a[-1]), step(*a))[1]  # pyright: ignore
    state = encoder.init_state(2, block=3)
    encoder.step(x, lengths, state)
    encoder.finish(encoder.step(x, lengths, state).state)
    assert seen
    assert all(blocks.before is None and blocks.after is None for blocks in seen)
    seen.clear()
    encoder.step(x, lengths, state, torch.ones(2, 8))
    assert all(blocks.before is not None for blocks in seen)
