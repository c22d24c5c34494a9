"""Joining the scans of a quasiseparable mixer: by steps that look at nothing else, on every backend."""

from __future__ import annotations

import pytest
import torch

from samba_asr.errors import UserError
from samba_asr.ops.blocks import Blocks, lay_blocks
from samba_asr.ops.quasiseparable import join_and_gate
from tests.ops.checks import (
    assert_agree,
    assert_close,
    assert_is_a_good_custom_op,
    every_backend,
    exact,
    padding,
    values_and_gradients,
    where_it_runs,
)

EVERY_BACKEND = every_backend(["torch", "triton"])


def make(b=3, t=9, h=2, p=3, *, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    wide = {name: randn(b, t, h * p) for name in ("forward", "backward", "x", "z")}
    return {**wide, "last": randn(b, 1, h * p), "skip": randn(b, t, h), "weight": randn(h * p)}


def step_by_step(forward, backward, x, z, last, skip, weight, *, lengths, sizes):
    """The definition, with zeros behind the valid steps."""
    (b, t, d), h = x.shape, skip.shape[2]
    outputs = []
    for row, (length, size) in enumerate(zip(lengths.tolist(), sizes.tolist(), strict=True)):
        for i in range(t):
            end = min(i // size * size + size, length)
            v = last[row, 0] if i == 0 else forward[row, i - 1]
            v = v + (backward[row, i + 1] if i + 1 < end else 0) + x[row, i] * skip[row, i].repeat_interleave(d // h)
            v = v * z[row, i] * z[row, i].sigmoid()
            outputs.append(v / (v.square().mean() + 1e-5).sqrt() * weight if i < length else torch.zeros_like(v))
    return torch.stack(outputs).view(b, t, d) if outputs else x


def on(backend):
    """The valid steps of `join_and_gate` with this backend, zeros behind them, of tensors on the CPU."""

    def join(forward, backward, x, z, last, skip, weight, *, backend, lengths, sizes):
        blocks = lay_blocks(lengths, x.shape[1], sizes)
        behind = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        backward = backward.masked_fill(behind[..., None], 0)  # as the scans leave it
        y = join_and_gate(forward, backward, last, x, skip, z, weight, blocks, backend=backend)
        return (y.masked_fill(behind[..., None], 0),)

    run = where_it_runs(join, backend)
    return lambda *args, **named: run(*args, **named)[0]


LENGTHS = [(9, [9, 4, 0]), (37, [37, 36, 1]), (16, [16, 16, 16]), (1, [1, 0, 1]), (0, [0, 0, 0])]


@EVERY_BACKEND
@pytest.mark.parametrize("sizes", [(1, 2, 3), (4, 100, 1 << 40)])
@pytest.mark.parametrize(("t", "lengths"), LENGTHS)
def test_agrees_with_step_by_step(backend, t, lengths, sizes, poisoned_empty):
    dtype, tolerance = exact(backend)
    where = {"lengths": torch.tensor(lengths), "sizes": torch.tensor(sizes)}
    assert_agree(on(backend), step_by_step, make(t=t, dtype=dtype), tolerance=tolerance, **where)


@EVERY_BACKEND
@pytest.mark.parametrize(("h", "p"), [(2, 1), (3, 5), (1, 64), (5, 13)])
def test_odd_sizes_agree(backend, h, p):
    dtype, tolerance = exact(backend)
    where = {"lengths": torch.tensor([6, 3]), "sizes": torch.tensor([4, 6])}
    assert_agree(on(backend), step_by_step, make(2, 6, h, p, dtype=dtype), tolerance=tolerance, **where)


@every_backend(["triton"])
def test_nothing_behind_the_valid_steps_reaches_anything(backend, poisoned_empty):
    """The kernels do not even read it; torch's own operations want it finite, as the scans leave it."""
    dtype, tolerance = exact(backend)
    lengths, sizes = torch.tensor([9, 4, 0]), torch.tensor([4, 3, 9])
    inputs, behind = make(dtype=dtype), padding(9, lengths)[..., None]
    poisoned = {k: v.masked_fill(behind, float("nan")) if v.shape[:2] == (3, 9) else v for k, v in inputs.items()}

    def valid(**given):
        return on(backend)(**given, lengths=lengths, sizes=sizes)[0].masked_fill(behind, 0)

    assert_close(values_and_gradients(valid, poisoned), values_and_gradients(valid, inputs), tolerance)


@every_backend(["triton"])
def test_triton_is_a_good_custom_op(backend):
    lengths, sizes = torch.tensor([5, 2]), torch.tensor([2, 3])
    sees = Blocks(rows=None, start=None, ragged=lengths, sizes=sizes)  # the kernels read no more of them

    def join(forward, backward, last, x, skip, z, weight, *, blocks, backend):
        return (join_and_gate(forward, backward, last, x, skip, z, weight, blocks, backend=backend),)

    made = make(2, 5, dtype=torch.float32)
    inputs = {name: made[name] for name in ("forward", "backward", "last", "x", "skip", "z", "weight")}
    where = {"lengths": lengths, "sizes": sizes, "eps": 1e-5}
    assert_is_a_good_custom_op(join, "join_and_gate_forward", inputs, where, blocks=sees)


def test_an_unknown_backend_is_named():
    blocks = lay_blocks(torch.tensor([9, 9, 9]), 9, 9)
    with pytest.raises(UserError, match="no backend 'chunk': use 'auto', 'torch' or 'triton'"):
        join_and_gate(**make(), blocks=blocks, backend="chunk")
