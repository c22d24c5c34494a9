"""Compare two implementations of one op: outputs, and the gradients of every input through every output."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

EXACT = {"triton": (torch.float32, 3e-5)}  # dtype and tolerance in which a backend is compared; others: float64

IN_TIME = ("x", "dt", "B", "C")  # inputs of a scan that have a time axis


def every_backend(names: Iterable[str]):
    """Mark a test to run with each of these as `backend`; Triton, where it is installed."""
    lacks = importlib.util.find_spec("triton") is None
    skip = {"triton": [pytest.mark.skipif(lacks, reason="triton is not installed (the extra gpu)")]}
    return pytest.mark.parametrize("backend", [pytest.param(name, marks=skip.get(name, [])) for name in names])


def exact(backend: str) -> tuple[torch.dtype, float]:
    return EXACT.get(backend, (torch.float64, 1e-12))


def where_it_runs(op: Callable, backend: str) -> Callable:
    """`op` with this backend, on the GPU if it is Triton and there is one; tensors of the caller and results are on the CPU."""
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"

    def run(*args, **named):
        args, named = [_moved(v, device) for v in args], {name: _moved(v, device) for name, v in named.items()}
        found = op(*args, **named, backend=backend)
        return tuple(v.cpu() for v in found)

    return run


def _moved(v, device: str):
    """A tensor, or a tuple that has tensors (`Blocks`), on this device; anything else as it is."""
    if isinstance(v, tuple):
        return type(v)(*(_moved(part, device) for part in v))
    return v.to(device) if isinstance(v, Tensor) else v


def some_resets(b: int, t: int, seed: int = 0) -> Tensor:
    """(b, t), one step in four begins a row anew."""
    return torch.rand(b, t, generator=torch.Generator().manual_seed(seed)) < 0.25


def padding(t: int, lengths: Tensor) -> Tensor:
    """(b, t), true behind each row's end."""
    return torch.arange(t) >= lengths[:, None]


def values_and_gradients(op: Callable, inputs: dict[str, Tensor | None], **options) -> dict[str, Tensor]:
    """Run `op(**inputs, **options)`; give its outputs ("output 0", ...) and, for each float input, "gradient of x".

    The gradients are those of one fixed random weighting of all outputs, drawn from a seed: two implementations whose
    outputs have the same shapes are asked the same question.
    """
    leaves = {
        name: value.detach().clone().requires_grad_() if value is not None and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    outputs = op(**leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in outputs]
    wanted = {name: v for name, v in leaves.items() if v is not None and v.requires_grad}
    loss = sum((v * w).sum() for v, w in zip(outputs, weights, strict=True))
    gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    found = {f"output {i}": v.detach() for i, v in enumerate(outputs)}
    for (name, leaf), gradient in zip(wanted.items(), gradients, strict=True):
        found[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return found


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor is within `tolerance` of the wanted one, relative to its largest element (at least 1e-3)."""
    assert got.keys() == want.keys()
    for name in want:
        a, b = got[name].double(), want[name].double()
        assert a.shape == b.shape, f"{name}: shape {tuple(a.shape)}, expected {tuple(b.shape)}"
        if b.numel():
            error = (a - b).abs().max().item() / max(b.abs().max().item(), 1e-3)
            assert error <= tolerance, f"{name}: relative error {error:.2e}, allowed {tolerance:.0e}"  # NaN fails too


def assert_agree(
    op: Callable, reference: Callable, inputs: dict[str, Tensor | None], *, tolerance: float, **options
) -> None:
    """`op` on `inputs` agrees with `reference` on the same inputs in float64, in every output and every gradient."""
    exact = {
        name: value.double() if value is not None and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    want = values_and_gradients(reference, exact, **options)
    assert_close(values_and_gradients(op, inputs, **options), want, tolerance)


class _CallsOfBackward(TorchDispatchMode):
    """Notes our custom ops that are called in a backward, and with what."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[Callable, tuple]] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "samba_asr" and "backward" in op.name():
            self.seen.append((op, args))
        return op(*args, **(kwargs or {}))


def assert_is_a_good_custom_op(
    op: Callable, custom_op: str, inputs: dict[str, Tensor], where: dict[str, Tensor | None], **named: Tensor | tuple
) -> None:
    """Check a custom op by torch's opcheck; it takes the inputs, then `where`.

    Also check that `op` with its Triton backend compiles into one graph with the same values and gradients, and that the
    gradients equal finite differences.  named: the arguments of `op` besides the inputs.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    leaves = [v.detach().to(device).requires_grad_() for v in inputs.values()]
    where, named = ({name: _moved(v, device) for name, v in some.items()} for some in (where, named))

    def run(*values):
        return op(**dict(zip(inputs, values, strict=True)), **named, backend="triton")

    with _CallsOfBackward() as calls:
        torch.autograd.grad(sum(v.sum() for v in run(*leaves)), leaves)  # which registers them
    torch.library.opcheck(getattr(torch.ops.samba_asr, custom_op), (*leaves, *where.values()))
    for backward, given in calls.seen:  # it has no gradient of its own
        torch.library.opcheck(backward, given, test_utils=("test_schema", "test_faketensor"))
    assert calls.seen
    outputs = run(*leaves)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    want, got = (
        [*found, *torch.autograd.grad(sum(v.sum() for v in found), leaves)] for found in (outputs, compiled(*leaves))
    )
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # float32, all that the kernels take, is coarse for it
        assert torch.autograd.gradcheck(run, leaves, eps=1e-2, atol=2e-3, rtol=2e-2, fast_mode=True)


def assert_packed_as_padded(
    op: Callable, reference: Callable, inputs: dict[str, Tensor], lengths: Tensor, *, tolerance: float
) -> None:
    """`op` on rows end to end (offsets) agrees with `reference` on the same rows side by side (lengths); x (b, t, ...)."""
    b, t = inputs["x"].shape[:2]
    reset, offsets = some_resets(b, t), F.pad(lengths.cumsum(0), (1, 0))
    valid = ~padding(t, lengths)

    def pack(**given):
        given = {name: v[valid][None] if name in IN_TIME else v for name, v in given.items()}
        return op(**given, reset=reset[valid][None], offsets=offsets)

    def pad(**given):
        y, state = reference(**given, reset=reset, lengths=lengths)
        return y[valid][None], state

    assert_agree(pack, pad, inputs, tolerance=tolerance)
