"""The contract of `samba_asr.streaming` as one function: the test of every streaming module calls `verify_streaming`.

In float64, on rows that end early, idle, and never line up, with NaN after every valid step:

    length      n steps give n // stride outputs, no more and no less, once finish has released what waited
    chunks      the outputs of any steps, then of finish, are those of forward
    padding     nothing after the valid steps reaches an output, a state or a gradient; its own gradient is 0
    idle        a row of length 0 releases nothing and keeps its state bit for bit
    state       keeps its shapes and dtypes, also in float32 and under bfloat16 autocast; no step changes one in place
    gradients   of the input and of the parameters are the same for the whole and for chunks
    rows        do not see each other; they can be split, stacked and reordered between steps

A module with a block size becomes a streaming module by an adapter: `AtBlock` for those that buffer (Encoder),
`InBlocks` for those that want whole blocks (BlockModule).  Each AssertionError begins with the name of the broken rule.
Shapes: b rows, t time, d channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.nn.blocks import BlockModule
from samba_asr.ops.blocks import lay_blocks
from samba_asr.streaming import State, StreamingModule, leaves, stack_rows, take_rows

NAN = float("nan")
Plan = list[list[int]]
"""For each step, how many input steps each row takes."""


def verify_streaming(
    module: StreamingModule, x: Tensor, *, tolerance: float = 1e-9, seeds: Iterable[int] = range(3)
) -> None:
    """Check the streaming contract on x (b, t, d), b at least 3 and t a multiple of module.stride.

    Cuts fall on multiples of `module.unit` where there is one (InBlocks), else of `module.stride`; a row's last chunk
    may be shorter.  Every seed draws other cuts.  The module itself is left as it was.
    """
    original = awake(copy.deepcopy(module))
    module, x = copy.deepcopy(original).double().eval(), x.double()
    b, t, _ = x.shape
    assert b >= 3, "give 3 rows or more: one is whole, one is empty, the others end early"
    assert t % module.stride == 0, f"t {t} must be a multiple of the stride {module.stride}"
    unit = getattr(module, "unit", module.stride)
    steps = t // module.stride
    early = [1 + (steps - 1) * i // (b - 1) for i in range(1, b - 1)]  # from short to nearly whole
    ragged = [t, 0, *(module.stride * n for n in early)]
    for lengths in ([t] * b, ragged):
        plans = [[lengths], _smallest(lengths, unit), *(draw_plan(lengths, unit, seed) for seed in seeds)]
        _check_chunks(module, x, lengths, plans, tolerance)
    plan = draw_plan(ragged, unit, 1000)
    _check_gradients(module, x, ragged, plan, tolerance)
    _check_rows(module, x, ragged, plan, tolerance)
    with torch.no_grad():
        single = copy.deepcopy(original).float().eval()
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                _feed(single, _rows(x.float(), ragged), plan, _start(single, x.float()))


def awake(module: nn.Module) -> nn.Module:
    """Draw the matrices that begin as zero (in place): behind them nothing that a layer does wrong could be seen."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim > 1 and not p.any():
                p.copy_(torch.randn(p.shape, generator=g) / math.sqrt(p.shape[1]))
    return module


# ---- how modules with blocks become streaming modules ----------------------------------------------------------------


class AtBlock(StreamingModule):
    """A streaming module with `block` and `hop` arguments (Encoder, AcousticModel), at one size or one for each row."""

    def __init__(self, module: StreamingModule, block: int | Sequence[int], hop: int | Sequence[int] | None = None):
        super().__init__()
        self.module, self.stride = module, module.stride
        self.block = torch.tensor(block) if isinstance(block, Sequence) else block
        self.hop = torch.tensor(hop) if isinstance(hop, Sequence) else hop

    def init_state(self, batch, *, device=None, dtype=None):
        return self.module.init_state(batch, block=self.block, hop=self.hop, device=device, dtype=dtype)

    def step(self, x, lengths, state):
        return self.module.step(x, lengths, state)

    def finish(self, state):
        return self.module.finish(state)

    def forward(self, x, lengths):
        return self.module(x, lengths, self.block, self.hop)


class InBlocks(StreamingModule):
    """A block module at one block size, or one for each row; chunks hold whole blocks, multiples of `unit` steps."""

    def __init__(self, module: BlockModule, size: int | Sequence[int]):
        super().__init__()
        self.module = module
        self.size = torch.as_tensor(size)
        self.unit = math.lcm(*self.size.flatten().tolist())

    def init_state(self, batch, *, device=None, dtype=None):
        return self.size.expand(batch).clone(), self.module.init_state(batch, device=device, dtype=dtype)

    def step(self, x, lengths, state):
        size, inner = state
        y, lengths, inner = self.module.step(x, lengths, inner, lay_blocks(lengths, x.shape[1], size))
        return y, lengths, (size, inner)

    def forward(self, x, lengths):
        return self.module(x, lengths, lay_blocks(lengths, x.shape[1], self.size))


# ---- plans -----------------------------------------------------------------------------------------------------------


def draw_plan(lengths: Sequence[int], unit: int, seed: int) -> Plan:
    """Each row takes 0 to 4 units a step, on its own, until it has had its length; some steps are empty for all."""
    generator = torch.Generator().manual_seed(seed)
    left, plan = list(lengths), []
    while any(left):
        units = torch.randint(-1, 5, (len(left),), generator=generator).clamp(min=0).tolist()
        plan.append([min(n * unit, rest) for n, rest in zip(units, left, strict=True)])
        left = [rest - n for rest, n in zip(left, plan[-1], strict=True)]
    return [*plan, [0] * len(left)]


def _smallest(lengths: Sequence[int], unit: int) -> Plan:
    """One unit a step, until every row has had its length."""
    return [[max(0, min(unit, n - start)) for n in lengths] for start in range(0, max(lengths), unit)]


# ---- running a module ------------------------------------------------------------------------------------------------


def _rows(x: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    return [row[:n] for row, n in zip(x, lengths, strict=True)]


def _start(module: StreamingModule, x: Tensor) -> State:
    return module.init_state(x.shape[0], device=x.device, dtype=x.dtype)


def _feed(module: StreamingModule, rows: Sequence[Tensor], plan: Plan, state: State) -> tuple[list[Tensor], State]:
    """Take the rows (n, d) through the steps of `plan`: the valid outputs of each row, and the last state."""
    at, out = [0] * len(rows), [[] for _ in rows]
    for i, sizes in enumerate(plan):
        width = max(sizes) + i % 3  # a chunk may be wider than its longest row
        chunk = torch.stack(
            [F.pad(row[a : a + n], (0, 0, 0, width - n), value=NAN) for row, a, n in zip(rows, at, sizes, strict=True)]
        )
        at = [a + n for a, n in zip(at, sizes, strict=True)]
        before = _copy(state)
        y, lengths, after = module.step(chunk, torch.tensor(sizes), state)
        _check_step(before, state, after, sizes, y, lengths)
        for row, piece, n in zip(out, y, lengths.tolist(), strict=True):
            row.append(piece[:n])
        state = after
    return [torch.cat(row) if row else None for row in out], state


def _finish(module: StreamingModule, out: list[Tensor], state: State) -> list[Tensor]:
    """The outputs of each row with what `finish` releases."""
    before = _copy(state)
    released = module.finish(state)
    assert _equal(before, state), "state: finish changed it in place"
    if released is None:
        return out
    y, lengths = released
    return [torch.cat([row, piece[:n]]) for row, piece, n in zip(out, y, lengths.tolist(), strict=True)]


def _whole(module: StreamingModule, x: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    y, n = module(x, torch.tensor(lengths))
    want = [length // module.stride for length in lengths]
    assert n.tolist() == want, f"length: {lengths} steps gave {n.tolist()} outputs, expected {want}"
    assert y.shape[1] >= max(want), f"length: forward says {n.tolist()} valid outputs, there are {y.shape[1]}"
    return _rows(y, n.tolist())


def _poison(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """x with NaN behind the valid steps."""
    behind = torch.arange(x.shape[1]) >= torch.tensor(lengths)[:, None]
    return x.masked_fill(behind[..., None], NAN)


def _copy(state: State) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in leaves(state)]


def _equal(first: State, second: State) -> bool:
    return all(torch.equal(p, q) for p, q in zip(leaves(first), leaves(second), strict=True))


def _same(got: Sequence[Tensor], want: Sequence[Tensor], tolerance: float, rule: str) -> None:
    for i, (p, q) in enumerate(zip(got, want, strict=True)):
        assert p.shape == q.shape, f"{rule} (row or leaf {i}): shape {tuple(p.shape)}, expected {tuple(q.shape)}"
        if p.is_floating_point() and p.numel():
            error = ((p - q).abs() / (1 + q.abs())).max().item()
            assert error <= tolerance, (
                f"{rule} (row or leaf {i}): off by {error:.1e}, allowed {tolerance:.0e}"
            )  # or NaN
        else:
            assert torch.equal(p, q), f"{rule} (row or leaf {i})"


# ---- the rules -------------------------------------------------------------------------------------------------------


def _check_step(
    before: list[Tensor], state: State, after: State, sizes: Sequence[int], y: Tensor, lengths: Tensor
) -> None:
    """Check the rules of every single step; `before` is a copy of `state`, made before it."""
    spec = [(leaf.shape, leaf.dtype) for leaf in before]
    now = [(leaf.shape, leaf.dtype) for leaf in leaves(after)]
    assert now == spec, f"state: shapes or dtypes were {spec}, are {now}"
    assert _equal(before, state), "state: step changed it in place"
    assert all(leaf.isfinite().all() for leaf in leaves(after)), "padding: NaN in the state"
    assert 0 <= int(lengths.min()) <= int(lengths.max()) <= y.shape[1], f"length: {lengths} valid of {y.shape[1]}"
    for r, n in enumerate(sizes):
        if n == 0:
            assert lengths[r] == 0, f"idle: row {r} took nothing and released {int(lengths[r])} steps"
            assert _equal([leaf[r] for leaf in before], take_rows(after, r)), f"idle: the state of row {r} moved"


def _check_chunks(
    module: StreamingModule, x: Tensor, lengths: Sequence[int], plans: Iterable[Plan], tolerance: float
) -> None:
    with torch.no_grad():
        want = _whole(module, _poison(x, lengths), lengths)
        assert all(row.isfinite().all() for row in want), "padding: NaN in the outputs of forward"
        for plan in plans:
            out, state = _feed(module, _rows(x, lengths), plan, _start(module, x))
            _same(_finish(module, out, state), want, tolerance, f"chunks: {plan}, compared to forward")


def _check_gradients(module: StreamingModule, x: Tensor, lengths: Sequence[int], plan: Plan, tolerance: float) -> None:
    def gradients(leaf: Tensor, rows: Sequence[Tensor]) -> list[Tensor]:
        weights = [torch.cos(torch.arange(row.numel(), dtype=row.dtype) + i).view_as(row) for i, row in enumerate(rows)]
        loss = sum((row * weight).sum() for row, weight in zip(rows, weights, strict=True))
        wanted = [leaf, *module.parameters()]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True)]

    poisoned = _poison(x, lengths).requires_grad_()
    whole = gradients(poisoned, _whole(module, poisoned, lengths))
    names = ["the input", *(name for name, _ in module.named_parameters())]
    for name, gradient in zip(names, whole, strict=True):
        assert gradient.isfinite().all(), f"padding: NaN in the gradient of {name}"
    behind = torch.arange(x.shape[1]) >= torch.tensor(lengths)[:, None]
    assert not whole[0][behind].any(), "padding: it has a gradient"

    clean = x.clone().requires_grad_()
    out, state = _feed(module, _rows(clean, lengths), plan, _start(module, x))
    in_chunks = gradients(clean, _finish(module, out, state))
    for name, p, q in zip(names, in_chunks, whole, strict=True):
        scale = max(1.0, q.abs().max().item()) if q.numel() else 1.0
        _same([p / scale], [q / scale], tolerance, f"gradients: of {name}, chunks compared to forward")


def _check_rows(module: StreamingModule, x: Tensor, lengths: Sequence[int], plan: Plan, tolerance: float) -> None:
    rows, start = _rows(x, lengths), _start(module, x)
    with torch.no_grad():
        together, last = _feed(module, rows, plan, start)
        apart = [_feed(module, [row], [[n[r]] for n in plan], take_rows(start, [r])) for r, row in enumerate(rows)]
        _same([out[0] for out, _ in apart], together, tolerance, "rows: one alone, compared to all")
        stacked = stack_rows([state for _, state in apart])
        _same(leaves(stacked), leaves(last), tolerance, "rows: states stacked, compared to all")

        early, late = plan[: len(plan) // 2], plan[len(plan) // 2 :]
        first, middle = _feed(module, rows, early, start)
        order = list(reversed(range(len(rows))))
        rest = [rows[r][sum(n[r] for n in early) :] for r in order]
        second, _ = _feed(module, rest, [[n[r] for r in order] for n in late], take_rows(middle, order))
        joined = [second[i] if first[r] is None else torch.cat([first[r], second[i]]) for i, r in enumerate(order)]
        _same(joined, [together[r] for r in order], tolerance, "rows: reordered between steps")


def parameter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each parameter."""
    return {name: tuple(p.shape) for name, p in module.named_parameters()}
