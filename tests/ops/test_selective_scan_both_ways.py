"""The selective scan on through time and backward inside blocks: by blocks that know nothing of each other, on every backend."""

from __future__ import annotations

import pytest
import torch

from samba_asr.ops.blocks import Blocks, lay_blocks
from samba_asr.ops.selective_scan import BACKENDS, selective_scan, selective_scan_both_ways
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

EVERY_BACKEND = every_backend(BACKENDS)
IN_TIME = ("x", "dt", "B", "C", "z")
LENGTHS = [(17, [17, 5, 0]), (35, [35, 33, 16]), (16, [16, 16, 16]), (1, [1, 0, 1]), (0, [0, 0, 0])]


def make(b=3, t=17, d=3, n=5, *, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    return {
        **{name: randn(b, t, 2, d) for name in ("x", "dt", "z")},
        "A": -torch.exp(randn(2, d, n)),
        "B": randn(b, t, 2, n),
        "C": randn(b, t, 2, n),
        "D": randn(2, d),
        "dt_bias": randn(2, d) - 1,
        "initial_state": randn(b, d, n),
    }


def one_by_one(x, dt, A, B, C, D, z, dt_bias, initial_state, *, lengths, sizes):
    """The definition: a scan of each row, and of each of its blocks in reversed time."""
    scan = {"D": D, "dt_bias": dt_bias}
    forward, state = selective_scan(
        *(v[:, :, 0] for v in (x, dt)),
        A[0],
        *(v[:, :, 0] for v in (B, C)),
        z=z[:, :, 0],
        **{name: v[0] for name, v in scan.items()},
        initial_state=initial_state,
        lengths=lengths,
        backend="naive",
    )
    backward = torch.zeros_like(forward)
    for row, (length, size) in enumerate(zip(lengths.tolist(), sizes.tolist(), strict=True)):
        for begin in range(0, length, size):
            block = torch.arange(begin, min(begin + size, length)).flip(0)
            u, step, b, c, gate = (v[row, block, 1][None] for v in (x, dt, B, C, z))
            own = {name: v[1] for name, v in scan.items()}
            y, _ = selective_scan(u, step, A[1], b, c, z=gate, **own, backend="naive")
            backward = backward.index_put((torch.tensor(row), block), y[0])
    return torch.stack([forward, backward], 2), state


def on(backend):
    """`selective_scan_both_ways` with this backend, of tensors on the CPU."""

    def scan(x, dt, A, B, C, *, backend, lengths, sizes, **others):
        blocks = lay_blocks(lengths, x.shape[1], sizes)
        return selective_scan_both_ways(x, dt, A, B, C, blocks, **others, backend=backend)

    return where_it_runs(scan, backend)


@EVERY_BACKEND
@pytest.mark.parametrize(("t", "lengths"), LENGTHS)
@pytest.mark.parametrize("sizes", [(1, 2, 3), (5, 16, 1 << 40)])
def test_agrees_with_blocks_one_by_one(backend, t, lengths, sizes, poisoned_empty):
    dtype, tolerance = exact(backend)
    where = {"lengths": torch.tensor(lengths), "sizes": torch.tensor(sizes)}
    assert_agree(on(backend), one_by_one, make(t=t, dtype=dtype), tolerance=tolerance, **where)


@EVERY_BACKEND
def test_padding_may_hold_nan_and_gets_no_gradient(backend, poisoned_empty):
    dtype, tolerance = exact(backend)
    lengths, sizes = torch.tensor([17, 5, 0]), torch.tensor([4, 3, 9])
    inputs, behind = make(dtype=dtype), padding(17, lengths)
    poisoned = {
        name: v.masked_fill(behind[..., None, None], float("nan")) if name in IN_TIME else v
        for name, v in inputs.items()
    }
    want = values_and_gradients(on(backend), inputs, lengths=lengths, sizes=sizes)
    got = values_and_gradients(on(backend), poisoned, lengths=lengths, sizes=sizes)
    assert_close(got, want, tolerance)
    for name in IN_TIME:
        assert not got[f"gradient of {name}"][behind].any()
    assert torch.equal(got["output 1"][2], inputs["initial_state"][2])


@every_backend(["triton"])
def test_several_programs_share_the_channels(backend):
    dtype, tolerance = exact(backend)
    where = {"lengths": torch.tensor([9, 4]), "sizes": torch.tensor([4, 3])}
    assert_agree(on(backend), one_by_one, make(2, 9, 19, 2, dtype=dtype), tolerance=tolerance, **where)


@every_backend(["triton"])
def test_triton_is_a_good_custom_op(backend):
    lengths, sizes = torch.tensor([5, 2]), torch.tensor([2, 3])
    sees = Blocks(rows=None, start=None, ragged=lengths, sizes=sizes)  # the kernels read no more of them
    inputs = make(2, 5, 2, 2, dtype=torch.float32)
    order = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")

    def scan(x, dt, A, B, C, *, blocks, backend, **others):
        return selective_scan_both_ways(x, dt, A, B, C, blocks, **others, backend=backend)

    where = {"lengths": lengths, "offsets": None, "reset": None, "sizes": sizes}
    inputs = {name: inputs[name] for name in order}
    assert_is_a_good_custom_op(scan, "selective_scan_forward", inputs, where, blocks=sees)
