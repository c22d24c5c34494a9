"""SSD on through time and backward inside blocks: by steps that look at nothing else, on every backend."""

from __future__ import annotations

import pytest
import torch

from samba_asr.ops.blocks import Blocks, lay_blocks
from samba_asr.ops.ssd import BACKENDS, ssd_both_ways
from samba_asr.ops.ssd.naive import ssd_naive
from tests.ops.checks import (
    IN_TIME,
    assert_agree,
    assert_close,
    assert_is_a_good_custom_op,
    every_backend,
    exact,
    padding,
    values_and_gradients,
    where_it_runs,
)

EVERY_BACKEND = every_backend(BACKENDS)


def make(b=3, t=17, h=4, p=3, g=2, n=5, *, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    return {
        "x": randn(b, t, h, p),
        "dt": torch.nn.functional.softplus(randn(b, t, 2, h) - 1),
        "A": -torch.exp(randn(h)),
        "B": randn(b, t, 2, g, n),
        "C": randn(b, t, 2, g, n),
        "initial_state": randn(b, h, p, n),
    }


def one_by_one(x, dt, A, B, C, initial_state, *, lengths, sizes):
    """The definition: a scan of each row, and of each of its blocks in reversed time."""
    forward, state = ssd_naive(x, dt[:, :, 0], A, B[:, :, 0], C[:, :, 0], initial_state=initial_state, lengths=lengths)
    backward = torch.zeros_like(x)
    for row, (length, size) in enumerate(zip(lengths.tolist(), sizes.tolist(), strict=True)):
        for begin in range(0, length, size):
            block = torch.arange(begin, min(begin + size, length)).flip(0)
            y, _ = ssd_naive(
                *(v[row, block][None] for v in (x, dt[:, :, 1])), A, *(v[row, block, 1][None] for v in (B, C))
            )
            backward = backward.index_put((torch.tensor(row), block), y[0])
    return forward, backward, state


def on(backend):
    """`ssd_both_ways` with this backend, of tensors on the CPU."""

    def scan(x, dt, A, B, C, initial_state, *, backend, lengths, sizes):
        blocks = lay_blocks(lengths, x.shape[1], sizes)
        return ssd_both_ways(x, dt, A, B, C, blocks, initial_state=initial_state, backend=backend)

    return where_it_runs(scan, backend)


LENGTHS = [(17, [17, 5, 0]), (70, [70, 69, 33]), (33, [33, 33, 33]), (1, [1, 0, 1]), (0, [0, 0, 0])]


@EVERY_BACKEND
@pytest.mark.parametrize(("t", "lengths"), LENGTHS)
@pytest.mark.parametrize("sizes", [(1, 2, 3), (8, 16, 32), (5, 100, 1 << 40)])
def test_agrees_with_blocks_one_by_one(backend, t, lengths, sizes, poisoned_empty):
    dtype, tolerance = exact(backend)
    where = {"lengths": torch.tensor(lengths), "sizes": torch.tensor(sizes)}
    assert_agree(on(backend), one_by_one, make(t=t, dtype=dtype), tolerance=tolerance, **where)


@EVERY_BACKEND
@pytest.mark.parametrize(("t", "lengths"), [(35, [35, 20, 0]), (9, [9, 9, 9])])
def test_each_way_may_have_its_own_input_and_decay(backend, t, lengths, poisoned_empty):
    """As Mamba-2 reads both ways: forward is what `one_by_one` says of the first x and A, backward of the second."""
    dtype, tolerance = exact(backend)
    first, second = make(t=t, dtype=dtype), make(t=t, dtype=dtype)
    own = {
        **first,
        "x": torch.stack([first["x"], second["x"].flip(0)], 2),
        "A": torch.stack([first["A"], first["A"] * 2]),
    }

    def ways(x, A, **others):
        forward, _, state = one_by_one(x[:, :, 0], A=A[0], **others)
        return forward, one_by_one(x[:, :, 1], A=A[1], **others)[1], state

    where = {"lengths": torch.tensor(lengths), "sizes": torch.tensor([4, 3, 100])}
    assert_agree(on(backend), ways, own, tolerance=tolerance, **where)


@EVERY_BACKEND
def test_the_state_may_be_that_of_an_earlier_step(backend, poisoned_empty):
    """Where blocks overlap (`Blocks.keep`): outputs see the whole block, the state is handed on from where the next begins."""
    dtype, tolerance = exact(backend)
    lengths, keep = torch.tensor([9, 9, 4]), torch.tensor([4, 0, 4])

    def scan(x, dt, A, B, C, initial_state, *, backend):
        blocks = lay_blocks(lengths.to(x.device), 9, 9)._replace(keep=keep.to(x.device))
        return ssd_both_ways(x, dt, A, B, C, blocks, initial_state=initial_state, backend=backend)

    def definition(**inputs):
        forward, backward, _ = one_by_one(**inputs, lengths=lengths, sizes=torch.tensor([9, 9, 9]))
        return forward, backward, one_by_one(**inputs, lengths=keep, sizes=torch.tensor([9, 9, 9]))[2]

    assert_agree(where_it_runs(scan, backend), definition, make(t=9, dtype=dtype), tolerance=tolerance)


@EVERY_BACKEND
def test_padding_may_hold_nan_and_gets_no_gradient(backend, poisoned_empty):
    dtype, tolerance = exact(backend)
    lengths, sizes = torch.tensor([17, 5, 0]), torch.tensor([4, 3, 9])
    inputs, behind = make(dtype=dtype), padding(17, lengths)
    poisoned = {
        k: v.masked_fill(behind.view(*behind.shape, *[1] * (v.dim() - 2)), float("nan")) if k in IN_TIME else v
        for k, v in inputs.items()
    }
    want = values_and_gradients(on(backend), inputs, lengths=lengths, sizes=sizes)
    got = values_and_gradients(on(backend), poisoned, lengths=lengths, sizes=sizes)
    assert_close(got, want, tolerance)
    for name in IN_TIME:
        assert not got[f"gradient of {name}"][behind].any()
    assert torch.equal(got["output 2"][2], inputs["initial_state"][2])


@EVERY_BACKEND
def test_slices_of_one_tensor_need_no_copy(backend):
    """As a mixer has them: x, B and C side by side behind one convolution."""
    dtype, tolerance = exact(backend)
    b, t, h, p, n = 2, 9, 2, 3, 5
    apart = make(b, t, h, p, 1, n, dtype=dtype)
    together = torch.cat([apart["x"].flatten(2), torch.stack([apart["B"], apart["C"]], 3).flatten(2)], -1)

    def sliced(together, dt, A, initial_state, **options):
        x, maps = together.split([h * p, 4 * n], -1)
        B, C = maps.unflatten(-1, (2, 2, 1, n)).unbind(3)
        return on(backend)(x.unflatten(-1, (h, p)), dt, A, B, C, initial_state, **options)

    def copied(together, dt, A, initial_state, **options):
        x, maps = together.split([h * p, 4 * n], -1)
        B, C = (v.clone() for v in maps.unflatten(-1, (2, 2, 1, n)).unbind(3))
        return one_by_one(x.reshape(b, t, h, p).clone(), dt, A, B, C, initial_state, **options)

    inputs = {"together": together, **{name: apart[name] for name in ("dt", "A", "initial_state")}}
    where = {"lengths": torch.tensor([9, 4]), "sizes": torch.tensor([4, 3])}
    assert_agree(sliced, copied, inputs, tolerance=tolerance, **where)


@every_backend(["triton"])
def test_triton_is_a_good_custom_op(backend):
    lengths, sizes = torch.tensor([5, 2]), torch.tensor([2, 3])
    sees = Blocks(rows=None, start=None, ragged=lengths, sizes=sizes)  # the kernels read no more of them

    def scan(x, dt, A, B, C, initial_state, *, blocks, backend):
        return ssd_both_ways(x, dt, A, B, C, blocks, initial_state=initial_state, backend=backend)

    where = {"lengths": lengths, "offsets": None, "reset": None, "sizes": sizes}
    assert_is_a_good_custom_op(scan, "ssd_forward", make(2, 5, 2, 2, 1, 2, dtype=torch.float32), where, blocks=sees)
