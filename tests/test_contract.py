"""Does the verifier bite?  Modules that keep the contract pass; each of the usual bugs is caught, and named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from samba_asr.config import Mamba2Config
from samba_asr.nn.blocks import BlockBidirectional
from samba_asr.nn.mixers import Mamba2
from samba_asr.ops.blocks import lay_blocks
from samba_asr.streaming import Step, StreamingModule, map_state, mask, tail
from tests.contract import InBlocks, draw_plan, verify_streaming
from tests.toys import CausalConv, LookAhead

TINY = Mamba2Config(d_state=3, headdim=4, d_conv=3)


def x(d=3, t=12, b=4):
    return torch.randn(b, t, d, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "module", [CausalConv(3, 2), CausalConv(3, 2, 5, 2), CausalConv(3, 2, 2, 2), LookAhead(3, 2)], ids=repr
)
def test_correct_modules_pass(module):
    verify_streaming(module, x())


def test_the_module_is_left_as_it_was():
    module = CausalConv(3, 2).train()
    verify_streaming(module, x())
    assert module.training
    assert module.conv.weight.dtype == torch.float32


def test_plans_cut_each_row_on_its_own_and_let_rows_idle():
    plan = draw_plan([24, 0, 23], 2, seed=0)
    assert [sum(row) for row in zip(*plan, strict=True)] == [24, 0, 23]
    assert any(a and not c for a, _, c in plan)  # a row idles while another goes on
    assert any(c and not a for a, _, c in plan)
    assert len({a for a, _, _ in plan}) > 2


# --- planted bugs


class IgnoresLengths(CausalConv):
    def step(self, x, lengths, state):
        step = super().step(x, torch.full_like(lengths, x.shape[1]), state)
        return step._replace(lengths=lengths)


class StateFromPadding(CausalConv):
    """NaN is hidden from the state, but zeros are taken for the last steps."""

    def step(self, x, lengths, state):
        y = super().step(x, lengths, state)
        return y._replace(state=torch.cat([state, mask(x, lengths)], dim=1)[:, -self.context :])


class DropsState(CausalConv):
    def step(self, x, lengths, state):
        return super().step(x, lengths, torch.zeros_like(state))


class BatchStatistics(CausalConv):
    def step(self, x, lengths, state):
        x = mask(x, lengths)
        return super().step(x - x.mean((0, 1)) if x.shape[1] else x, lengths, state)


class BatchMate(CausalConv):
    """Chunks agree with forward, because the rows are the same; but a row alone is not what it is among others."""

    def step(self, x, lengths, state):
        step = super().step(x, lengths, state)
        return step._replace(x=step.x * state.shape[0])


class LooksAhead(CausalConv):
    def step(self, x, lengths, state):
        step = super().step(x, lengths, state)
        ahead = torch.cat([step.x[:, 1:], torch.zeros_like(step.x[:, :1])], dim=1)
        return step._replace(x=step.x + mask(ahead, lengths - 1))


class MovesIdleRows(CausalConv):
    def step(self, x, lengths, state):
        step = super().step(x, lengths, state)
        return step._replace(state=step.state * (1 + 1e-15))


class MutatesState(CausalConv):
    def step(self, x, lengths, state):
        step = super().step(x, lengths, state)
        return step._replace(state=state.copy_(step.state) if not step.state.requires_grad else step.state)


class HidesState(CausalConv):
    """The state is where no caller sees it."""

    def init_state(self, batch, *, device=None, dtype=None):
        self.hidden = super().init_state(batch, device=device, dtype=dtype)
        return ()

    def step(self, x, lengths, state):
        step = super().step(x, lengths, self.hidden)
        self.hidden = step.state
        return step._replace(state=())


class GrowingState(CausalConv):
    def step(self, x, lengths, state):
        context = super().step(x, lengths, state[:, -self.context :])
        return context._replace(state=torch.cat([state, context.state], dim=1))


class OtherDtype(CausalConv):
    def step(self, x, lengths, state):
        step = super().step(x, lengths, state)
        return step._replace(state=map_state(lambda leaf: leaf.double(), step.state))


class DetachesState(CausalConv):
    def step(self, x, lengths, state):
        return super().step(x, lengths, state.detach())


class ForgetsFinish(LookAhead):
    def finish(self, state):
        return None


class FeedsIdleRows(LookAhead):
    """What waits is released again at every step, whether or not anything came."""

    def step(self, x, lengths, state):
        step = super().step(x, lengths, state)
        return step._replace(lengths=torch.where(lengths == 0, state[1].clamp(max=step.x.shape[1]), step.lengths))


class PoisonsGradients(StreamingModule):
    """Valid outputs are clean, but the weight's gradient holds 0 * NaN."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def init_state(self, batch, *, device=None, dtype=None):
        return ()

    def step(self, x, lengths, state):
        return Step(self.linear(x), lengths, state)


class ForgetsReset(BlockBidirectional):
    def step(self, x, lengths, state, blocks):
        return super().step(x, lengths, state, blocks._replace(start=None))


class FlipsTheChunk(BlockBidirectional):
    """Reads back from the end of what happens to be here."""

    def step(self, x, lengths, state, blocks):
        return super().step(x, lengths, state, lay_blocks(lengths, x.shape[1], max(1, x.shape[1])))


class HidesBehindZero(LooksAhead):
    """A residual branch that begins as nothing, as ConvolutionModule does: fresh, it would hide any bug before it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.project = nn.Linear(2, 2, bias=False)
        nn.init.zeros_(self.project.weight)

    def step(self, x, lengths, state):
        step = super().step(x, lengths, state)
        return step._replace(x=mask(self.project(step.x), step.lengths))


class TailOffByOne(CausalConv):
    def step(self, x, lengths, state):
        step = super().step(x, lengths, state)
        both = torch.cat([state, mask(x, lengths)], dim=1)
        late = tail(both, (lengths - 1).clamp(min=0), self.context)
        return step._replace(state=torch.where((lengths == 0)[:, None, None], step.state, late))


@pytest.mark.parametrize(
    ("bug", "rule"),
    [
        (IgnoresLengths, "padding: NaN in the state"),
        (StateFromPadding, "idle: the state of row . moved|chunks"),
        (DropsState, "idle: the state of row . moved|chunks"),
        (BatchStatistics, "chunks"),
        (BatchMate, "rows: one alone"),
        (LooksAhead, "chunks"),
        (MovesIdleRows, "idle: the state of row . moved"),
        (MutatesState, "state: step changed it in place"),
        (GrowingState, "state: shapes"),
        (OtherDtype, "state: shapes or dtypes"),
        (DetachesState, "gradients: of"),
        (HidesBehindZero, "chunks"),
        (TailOffByOne, "chunks"),
    ],
)
def test_planted_bugs_are_caught(bug, rule):
    with pytest.raises(AssertionError, match=rf"^({rule})"):
        verify_streaming(bug(3, 2), x())


@pytest.mark.parametrize(("bug", "rule"), [(ForgetsFinish, "length"), (FeedsIdleRows, "idle: row . took nothing")])
def test_planted_bugs_in_look_ahead_are_caught(bug, rule):
    with pytest.raises(AssertionError, match=rf"^({rule})"):
        verify_streaming(bug(3, 2), x())


def test_a_hidden_state_is_caught():
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):  # another batch meets it
        verify_streaming(HidesState(3, 2), x())


def test_a_poisoned_gradient_is_caught():
    with pytest.raises(AssertionError, match=r"^padding: NaN in the gradient of linear\.weight"):
        verify_streaming(PoisonsGradients(), x())


@pytest.mark.parametrize("bug", [ForgetsReset, FlipsTheChunk])
def test_planted_bugs_in_blocks_are_caught(bug):
    correct = BlockBidirectional(Mamba2(4, TINY), Mamba2(4, TINY))
    verify_streaming(InBlocks(correct, 3), x(d=4))
    with pytest.raises(AssertionError, match=r"^chunks"):
        verify_streaming(InBlocks(bug(correct.forward_mixer, correct.backward_mixer), 3), x(d=4))
