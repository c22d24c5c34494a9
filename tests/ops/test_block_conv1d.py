"""Convolution inside blocks: by steps that look at nothing else, on every backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samba_asr.errors import UserError
from samba_asr.ops.blocks import Blocks, lay_blocks
from samba_asr.ops.conv1d import block_conv1d
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


def make(b=3, t=9, d=5, past=2, future=3, *, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    k = past + 1 + future
    return {"x": randn(b, t, d), "weight": randn(d, k), "bias": randn(d), "initial_state": randn(b, past, d)}


def step_by_step(x, weight, bias, initial_state, *, lengths, sizes, silu):
    """The definition."""
    (b, t, d), past = x.shape, initial_state.shape[1]
    outputs, states = [], []
    for row, (length, size) in enumerate(zip(lengths.tolist(), sizes.tolist(), strict=True)):
        seen = torch.cat([initial_state[row], x[row, :length]])
        for i in range(t):
            end = min(i // size * size + size, length)
            inputs = [i + j for j in range(weight.shape[1])]  # among the steps seen, which begin `past` before x
            taps = (
                [weight[:, j] * seen[at] for j, at in enumerate(inputs) if at < past + max(end, i + 1)]
                if i < length
                else []
            )
            y = sum(taps) + (0 if bias is None else bias) if taps else x.new_zeros(d)
            outputs.append(F.silu(y) if silu else y)
        states.append(seen[length:])
    return torch.stack(outputs).view(b, t, d) if outputs else x.new_zeros(b, 0, d), torch.stack(states)


def on(backend):
    """The valid steps of `block_conv1d` with this backend, zeros behind them, of tensors on the CPU."""

    def convolve(x, weight, bias, initial_state, *, backend, lengths, sizes, silu):
        blocks = lay_blocks(lengths, x.shape[1], sizes)
        y, state = block_conv1d(x, weight, bias, initial_state=initial_state, blocks=blocks, silu=silu, backend=backend)
        return y.masked_fill((torch.arange(x.shape[1], device=x.device) >= lengths[:, None])[..., None], 0), state

    return where_it_runs(convolve, backend)


@EVERY_BACKEND
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("sizes", [(1, 2, 3), (4, 100, 1 << 40)])
@pytest.mark.parametrize(("t", "lengths"), [(9, [9, 4, 0]), (37, [37, 36, 1]), (33, [33, 33, 33]), (0, [0, 0, 0])])
def test_agrees_with_step_by_step(backend, t, lengths, sizes, silu, poisoned_empty):
    dtype, tolerance = exact(backend)
    where = {"lengths": torch.tensor(lengths), "sizes": torch.tensor(sizes)}
    assert_agree(on(backend), step_by_step, make(t=t, dtype=dtype), tolerance=tolerance, silu=silu, **where)


@EVERY_BACKEND
@pytest.mark.parametrize(("d", "past", "future"), [(1, 0, 0), (3, 3, 0), (70, 0, 3), (2, 3, 3), (4, 7, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_odd_sizes_agree(backend, d, past, future, bias):
    dtype, tolerance = exact(backend)
    inputs = make(2, 6, d, past, future, dtype=dtype)
    inputs["bias"] = inputs["bias"] if bias else None
    where = {"lengths": torch.tensor([6, 3]), "sizes": torch.tensor([4, 6])}
    assert_agree(on(backend), step_by_step, inputs, tolerance=tolerance, silu=True, **where)


@EVERY_BACKEND
def test_padding_may_hold_nan_and_gets_no_gradient(backend, poisoned_empty):
    dtype, tolerance = exact(backend)
    inputs, where = (
        make(dtype=dtype),
        {"lengths": torch.tensor([9, 4, 0]), "sizes": torch.tensor([4, 3, 2]), "silu": True},
    )
    behind = padding(9, where["lengths"])
    poisoned = {**inputs, "x": inputs["x"].masked_fill(behind[..., None], float("nan"))}
    want = values_and_gradients(on(backend), inputs, **where)
    got = values_and_gradients(on(backend), poisoned, **where)
    assert_close(got, want, tolerance)
    assert not got["gradient of x"][behind].any()
    assert torch.equal(got["output 1"][2], inputs["initial_state"][2])


@EVERY_BACKEND
def test_the_state_may_be_that_of_an_earlier_step(backend):
    """Where blocks overlap (`Blocks.keep`): outputs see the whole block, the state is handed on from where the next begins."""
    dtype, tolerance = exact(backend)
    lengths, keep, sizes = torch.tensor([9, 9, 4]), torch.tensor([4, 0, 4]), torch.tensor([9, 9, 9])

    def convolve(x, weight, bias, initial_state, *, backend):
        blocks = lay_blocks(lengths.to(x.device), 9, 9)._replace(keep=keep.to(x.device))
        y, state = block_conv1d(x, weight, bias, initial_state=initial_state, blocks=blocks, backend=backend)
        return y.masked_fill((torch.arange(9, device=x.device) >= lengths.to(x.device)[:, None])[..., None], 0), state

    def definition(**inputs):
        y, _ = step_by_step(**inputs, lengths=lengths, sizes=sizes, silu=False)
        return y, step_by_step(**inputs, lengths=keep, sizes=sizes, silu=False)[1]

    assert_agree(where_it_runs(convolve, backend), definition, make(dtype=dtype), tolerance=tolerance)


@EVERY_BACKEND
def test_a_slice_of_wider_steps_needs_no_copy(backend):
    dtype, tolerance = exact(backend)
    inputs, where = (
        make(dtype=dtype),
        {"lengths": torch.tensor([9, 4, 0]), "sizes": torch.tensor([4, 3, 2]), "silu": True},
    )
    wide = torch.cat([inputs["x"], inputs["x"]], -1)
    sliced = {name: v.clone() for name, v in inputs.items()} | {"x": wide[..., :5]}
    found, want = (on(backend)(**given, **where) for given in (sliced, inputs))
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_backend(["triton"])
def test_triton_is_a_good_custom_op(backend):
    lengths, sizes = torch.tensor([5, 2]), torch.tensor([2, 3])
    sees = Blocks(rows=None, start=None, ragged=lengths, sizes=sizes)  # the kernels read no more of them

    def convolve(x, weight, bias, initial_state, *, blocks, backend):
        return block_conv1d(x, weight, bias, initial_state=initial_state, blocks=blocks, silu=True, backend=backend)

    where = {"lengths": lengths, "sizes": sizes, "silu": True}
    assert_is_a_good_custom_op(convolve, "block_conv1d_forward", make(2, 5, 3, dtype=torch.float32), where, blocks=sees)


def test_an_unknown_backend_is_named():
    inputs = make()
    blocks = lay_blocks(torch.tensor([9, 9, 9]), 9, 9)
    with pytest.raises(UserError, match="no backend 'chunk': use 'auto', 'torch' or 'triton'"):
        block_conv1d(**inputs, blocks=blocks, backend="chunk")
