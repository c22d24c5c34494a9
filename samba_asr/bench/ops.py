"""Speed of scans and mixers: time of forward, of forward and backward, and of a live step; memory; share of the floor.

One call of `main` measures one op by one backend at one size.  Our ops and those of other packages (samba_asr.bench.peer_ops)
get the same inputs, drawn from a seed.

Shapes: b batch, t time, d d_inner, n state, h heads, p channels of a head.
"""

from __future__ import annotations

import functools
import math
import operator
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samba_asr import config as configs
from samba_asr.bench import peer_ops
from samba_asr.bench.measure import answer, peak_memory, resident_memory
from samba_asr.config import MixerConfig, mixer_config
from samba_asr.device import choose_device
from samba_asr.errors import UserError
from samba_asr.nn.mixers import build_mixer
from samba_asr.ops.blocks import lay_blocks
from samba_asr.ops.lti import BACKENDS as LTI_BACKENDS
from samba_asr.ops.lti import Prepared, System, lti
from samba_asr.ops.rnn import GRU_BACKENDS, LSTM_BACKENDS, para_gru, para_lstm
from samba_asr.ops.scan2d import BACKENDS as SCAN2D_BACKENDS
from samba_asr.ops.scan2d import scan2d
from samba_asr.ops.selective_scan import BACKENDS as S6_BACKENDS
from samba_asr.ops.selective_scan import selective_scan
from samba_asr.ops.spectrum import hippo
from samba_asr.ops.ssd import BACKENDS as SSD_BACKENDS
from samba_asr.ops.ssd import ssd

HEADDIM = {"lti": 16, "s4": 16, "s4d": 16, "scan2d": 16}  # others: 32; of scan2d, channels of a band
RNN_STATE = {"para_gru": 1, "paragru": 1, "para_lstm": 2, "paralstm": 2}
STATE = {"selective_scan": 16, "mamba": 16, "lti": 32, "s4": 32, "s4d": 32, "scan2d": 8, **RNN_STATE}
# others: 64; the sizes of their papers, except for SSD's 128 and for S4's 64, of complex numbers
FRAMES = 8  # of a live step, one session: 320 ms
MIXERS = tuple(configs.MIXERS)
NAIVE_LIMIT = 1 << 26  # most b t d n of the naive loop, which keeps everything for backward: 1 GB and more


def _lti(x: Tensor, A: Tensor, B: Tensor, C: Tensor, dt: Tensor, P: Tensor, **named) -> tuple[Tensor, Tensor]:
    """Run `lti` on parameters as real numbers: A, B (g, n, 2), C (d, n, 2), P (1, g, n, 2)."""
    return lti(x, _system(A, B, C, dt, P), **named)


def _system(A: Tensor, B: Tensor, C: Tensor, dt: Tensor, P: Tensor) -> System:
    A, B, C, P = (torch.view_as_complex(v) for v in (A, B, C, P))
    return System(A, B, C, dt, P)


SCANS = {
    "selective_scan": (selective_scan, S6_BACKENDS),
    "ssd": (ssd, SSD_BACKENDS),
    "lti": (_lti, LTI_BACKENDS),
    "para_gru": (para_gru, GRU_BACKENDS),
    "para_lstm": (para_lstm, LSTM_BACKENDS),
    "scan2d": (scan2d, SCAN2D_BACKENDS),
}
OPS = (*SCANS, *MIXERS)


class Case(NamedTuple):
    """One op at one size, ready to run."""

    run: Callable[[], tuple[Tensor, ...] | Tensor]
    inputs: dict[str, Tensor]  # inputs and parameters, which all get gradients
    states: int  # b t d n: states that a scan computes; for a mixer the sum over its scans
    size: int  # bytes of inputs and outputs


def backends(op: str, device: str) -> list[str]:
    """Return our backends that run on this type of device, by name, then installed ones of other packages."""
    ours = [name for name in SCANS[op][1] if name != "triton" or device == "cuda"] if op in SCANS else ["auto"]
    return [*ours, *(name for name in peer_ops.PEERS.get(op, {}) if peer_ops.runs(name, device))]


def main(
    op: str, backend: str, batch: int, length: int, d_model: int, dtype: str, device: str, rounds: int
) -> dict[str, Any]:
    """Measure one op.

    forward_ms, train_ms: forward; forward and backward by all inputs.  step_ms: 8 frames of one session, only for ours.
    op_memory: MiB beyond the inputs.
    forward_floor, train_floor: the least possible time on this machine over the measured one.  The least time is the larger of
        two: bytes of inputs and outputs over the rate of a copy, and 5 operations a state (15 with backward) over the rate of
        a matrix product.  Both rates are measured here.
    error, gradient_error: for a scan, largest difference from the naive loop in float64 over its largest value; for gradients
        the worst of all, if memory allows the loop's backward pass.
    left_out: the reason if nothing was measured; then it is the only result.
    """
    chosen, kind = choose_device(device), getattr(torch, dtype)
    torch.manual_seed(1)
    d = 2 * d_model
    headdim = HEADDIM.get(op, 32)
    if d % headdim:
        raise UserError(f"--d-model {d_model}: give a multiple of {headdim // 2}")
    if backend == "naive" and batch * length * d * STATE.get(op, 64) > NAIVE_LIMIT:
        return {"left_out": "a loop that keeps every state of so many"}
    make = _scan if op in SCANS else _mixer
    try:
        work = make(op, backend, batch, length, d_model, kind, chosen)
        before = resident_memory(chosen)
        with torch.no_grad():
            forward = _seconds(work.run, chosen, rounds)
        train = _seconds(lambda: _train(work), chosen, rounds)
    except Exception as error:
        if backend not in peer_ops.PEERS.get(op, {}) and not isinstance(
            error, RuntimeError | UserError | NotImplementedError
        ):
            raise
        return {"left_out": " ".join(str(error).split())[:120]}
    memory = max(0.0, peak_memory()["gpu_memory" if chosen.type == "cuda" else "memory"] - before)
    found = {"forward_ms": 1000 * forward, "train_ms": 1000 * train, "op_memory": memory}
    if backend not in peer_ops.PEERS.get(op, {}):
        step = make(op, backend, 1, FRAMES, d_model, kind, chosen)
        with torch.inference_mode():
            found["step_ms"] = 1000 * _seconds(step.run, chosen, 10 * rounds)
    copy, product = _rates(chosen, kind)
    for name, passes, taken in (("forward", 1, forward), ("train", 3, train)):
        found[f"{name}_floor"] = max(passes * work.size / copy, passes * 5 * work.states / product) / taken
    if op in SCANS:
        found |= _errors(op, backend, work)
    return {**found, "threads": torch.get_num_threads(), "device": str(chosen)}


def scan_inputs(op: str, b: int, t: int, d: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Draw inputs of a scan, d channels in all, with the initial step sizes or weights of our mixers."""
    new = lambda *shape: torch.randn(shape, device=device)  # noqa: E731
    headdim, n = HEADDIM.get(op, 32), STATE.get(op, 64)
    heads = d // headdim
    if op == "lti":
        pairs = lambda v: torch.view_as_real(v.to(device, torch.complex64).resolve_conj().contiguous())  # noqa: E731
        A, B, P, _ = (pairs(v) for v in hippo("legs", n))
        each = lambda v: v.expand(heads, -1, -1).clone()  # noqa: E731
        parts = {"A": each(A), "B": each(B), "C": new(d, n // 2, 2), "P": each(P[0])[None]}
        steps = torch.logspace(-3, -1, heads, device=device)
        return {"x": new(b, t, d).to(dtype), **parts, "dt": steps, "initial_state": new(b, d, n)}
    if op in RNN_STATE:
        small = lambda rows: new(rows, d) * 2 / math.sqrt(5 * d)  # noqa: E731
        weights = {"A": small(3)} if op == "para_gru" else {"A": small(3), "C": small(2)}
        state = new(b, d) if op == "para_gru" else new(b, 2, d)
        return {"x": new(b, t, 3, d).to(dtype), **weights, "initial_state": state}
    if op == "scan2d":
        v, n = d // headdim, n // 2
        inputs = {"x": new(b, t, v, 2, headdim // 2), "B": new(b, t, v, 2, 1, n), "C": new(b, t, v, 2, 1, n)}
        decays = {"dt": F.softplus(new(b, t, v, 2, 2) - 1), "A": -torch.ones(2, 2, device=device)}
        state = new(b, 2, v, 2, n, headdim // 2)
        inputs = {name: value.to(dtype) for name, value in inputs.items()}
        return {**inputs, **decays, "mix": torch.full((2, 2), 0.12, device=device), "initial_state": state}
    dt = F.softplus(new(b, t, d if op == "selective_scan" else heads) - 3)
    if op == "selective_scan":
        A = -torch.arange(1, n + 1, device=device).float().repeat(d, 1)
        inputs = {"x": new(b, t, d), "dt": dt, "A": A, "B": new(b, t, n), "C": new(b, t, n)}
        state = new(b, d, n)
    else:
        A = -torch.empty(heads, device=device).uniform_(1, 16)
        inputs = {"x": new(b, t, heads, headdim), "dt": dt, "A": A, "B": new(b, t, 1, n), "C": new(b, t, 1, n)}
        state = new(b, heads, headdim, n)
    keep = ("dt", "A")  # in float32, for the precision of the decays
    inputs = {name: v if name in keep else v.to(dtype) for name, v in inputs.items()}
    return {**inputs, "initial_state": state}


def _scan(op: str, backend: str, b: int, t: int, d_model: int, dtype: torch.dtype, device: torch.device) -> Case:
    inputs = scan_inputs(op, b, t, 2 * d_model, dtype, device)
    ours, _ = SCANS[op]
    peer = peer_ops.PEERS.get(op, {}).get(backend)
    if peer:
        del inputs["initial_state"]  # peers do not take it, or give no gradient for it
        run = lambda: peer(**inputs)  # noqa: E731
    else:
        run = _as_live(inputs, backend) if op == "lti" else lambda: ours(**inputs, backend=backend)
    for v in inputs.values():
        v.requires_grad_()
    states = b * t * 2 * d_model * STATE.get(op, 64)
    size = sum(v.nbytes for v in inputs.values()) + inputs["x"].nbytes
    return Case(run, inputs, states, size)


def _as_live(inputs: dict[str, Tensor], backend: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a call of `lti` that keeps the matrices of chunks where nothing trains, as the mixers do."""
    kept: list[Prepared] = []

    def run() -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return _lti(**inputs, backend=backend)
        if not kept:
            kept.append(Prepared(_system(*(inputs[name] for name in ("A", "B", "C", "dt", "P")))))
        return lti(inputs["x"], kept[0], initial_state=inputs["initial_state"], backend=backend)

    return run


def mixer_of(op: str) -> MixerConfig:
    """Return the configuration of a measured mixer: one direction, if it has a choice."""
    values = {"bidirectional": False, "d_state": STATE.get(op, 64), "headdim": HEADDIM.get(op, 32)}
    return mixer_config(
        op, **{name: value for name, value in values.items() if name in configs.MIXERS[op].__dataclass_fields__}
    )


def _mixer(op: str, backend: str, b: int, t: int, d_model: int, dtype: torch.dtype, device: torch.device) -> Case:
    config = mixer_of(op)
    peer = peer_ops.PEERS.get(op, {}).get(backend)
    mixer: nn.Module = (peer or build_mixer)(d_model, config).to(device)
    x = torch.randn(b, t, d_model, device=device, requires_grad=True)
    lengths = torch.full((b,), t, device=device)
    blocks = lay_blocks(lengths, t, t)
    state = None if peer else mixer.init_state(b, device=device, dtype=x.dtype)

    def run() -> tuple[Tensor, ...]:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return (mixer(x) if peer else mixer.step(x, lengths, state, blocks).x,)

    directions = 2 if op == "hydra" else 1
    leaves = {"x": x, **dict(mixer.named_parameters())}
    states = directions * b * t * 2 * d_model * STATE.get(op, 64)
    return Case(run, leaves, states, 2 * x.nbytes + sum(p.nbytes for p in mixer.parameters()))


def _train(work: Case) -> tuple[Tensor, list[Tensor]]:
    """Return the first output, and the gradients of the sum of all outputs by all inputs."""
    found = work.run()
    found = found if isinstance(found, tuple) else (found,)
    sums = [v.float().sum() if v.dtype != torch.float64 else v.sum() for v in found]
    total = functools.reduce(operator.add, sums)
    return found[0], list(torch.autograd.grad(total, list(work.inputs.values()), allow_unused=True))


def _errors(op: str, backend: str, work: Case) -> dict[str, float]:
    """Compute the errors against the naive loop in float64, on the same numbers."""
    exact = {name: v.detach().double().requires_grad_() for name, v in work.inputs.items()}
    ours, _ = SCANS[op]
    peer = backend in peer_ops.PEERS.get(op, {})  # peers return no state, so it gives no gradient
    truth = Case(lambda: ours(**exact, backend="naive")[: 1 if peer else 2], exact, work.states, work.size)
    if work.states > NAIVE_LIMIT:
        with torch.no_grad():
            (got, *_), (want, *_) = (r if isinstance(r, tuple) else (r,) for r in (work.run(), truth.run()))
        return {"error": _difference(got, want)}
    (got, gradients), (want, right) = _train(work), _train(truth)
    worst = max(_difference(a, b) for a, b in zip(gradients, right, strict=True))
    return {"error": _difference(got, want), "gradient_error": worst}


@torch.no_grad()
def _difference(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).abs().max() / want.abs().max())


def _seconds(work: Callable[[], Any], device: torch.device, rounds: int, *, at_most: float = 10.0) -> float:
    """Return the median time of `rounds` calls after a warm-up call; fewer, at least one, if they exceed `at_most` seconds."""
    work()
    taken = []
    while len(taken) < rounds and (not taken or sum(taken) < at_most):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measure bytes a second of a copy (read and written), and operations a second of a matrix product in `dtype`."""
    large = torch.ones(1 << 24, device=device)
    copy = 2 * large.nbytes / _seconds(lambda: large.clone(), device, 5)
    side = 4096 if device.type == "cuda" else 1024
    square = torch.ones(side, side, device=device, dtype=dtype)
    return copy, 2 * side**3 / _seconds(lambda: square @ square, device, 5)


if __name__ == "__main__":
    answer(main)
