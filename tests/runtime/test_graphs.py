"""Recorded steps: what a replay gives is what the layers give, whoever else is in the batch and whatever comes next."""

from __future__ import annotations

import weakref

import pytest
import torch

from samba_asr.models.encoder import Encoder
from samba_asr.runtime import graphs
from samba_asr.runtime.graphs import LayerGraphs, record_cuda
from samba_asr.streaming import leaves, map_state
from tests.contract import awake
from tests.models.tiny import noise, tiny

MIXERS = pytest.mark.parametrize("mixer", ["mamba", "mamba2", "hydra"])
BLOCK = 4


class ByHand:
    """Records as CUDA does, as far as a CPU can: a replay does it again, from the same buffers into the same buffers.

    A graph knows addresses alone, so this holds no tensor: one that nobody else holds is gone when the replay wants it.
    """

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, run, *inputs):
        outputs = run(*inputs)
        self.recorded += 1
        into, inputs = weakly(outputs), weakly(inputs)

        def replay():
            self.replayed += 1
            for old, new in zip(leaves(held(into)), leaves(run(*held(inputs))), strict=True):
                old.copy_(new)

        return replay, outputs


def weakly(tree):
    """A tree of tensors (or None) without a claim on their memory."""
    if isinstance(tree, torch.Tensor):
        return weakref.ref(tree)
    if not isinstance(tree, tuple):
        return tree
    parts = [weakly(child) for child in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def held(tree):
    if isinstance(tree, weakref.ref):
        tensor = tree()
        assert tensor is not None, "a replay reads memory that was given back"
        return tensor
    if not isinstance(tree, tuple):
        return tree
    parts = [held(child) for child in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def encoder(mixer="hydra", record=None):
    torch.manual_seed(0)
    model = awake(Encoder(tiny(mixer, layers=3, self_conditioning=(1,)))).eval()
    if record is not None:
        model.live_step = LayerGraphs(model.one_block, record)
    return model


def live(model, chunks, block=BLOCK, hop=None):
    """The frames of sessions that receive `chunks` (b, t, d), with their lengths; the last state."""
    rows = chunks[0][0].shape[0]
    found, state = [], model.init_state(rows, block=block, hop=hop)
    with torch.inference_mode():
        for x, lengths in chunks:
            y, n, state = model.step(x, torch.tensor(lengths), state)
            found += [y[i, : n[i]] for i in range(rows)]
    return [*found, *leaves(state)]


@MIXERS
@pytest.mark.parametrize("rows", [1, 3, 4])
def test_recorded_steps_are_the_layers_own(mixer, rows):
    chunks = [(noise(rows, BLOCK, 8, seed=i), [BLOCK] * rows) for i in range(4)]
    want = live(encoder(mixer), chunks)
    model = encoder(mixer, record := ByHand())
    for a, b in zip(live(model, chunks), want, strict=True):
        torch.testing.assert_close(a, b)
    assert (record.recorded, record.replayed) == (1, 4)


@MIXERS
def test_recorded_steps_of_blocks_that_overlap_are_the_layers_own(mixer):
    chunks = [(noise(3, t, 8, seed=t), [t] * 3) for t in (BLOCK, 2, 2, 5)]  # a hop is half a block; the last has two
    want = live(encoder(mixer), chunks, hop=2)
    model = encoder(mixer, record := ByHand())
    for a, b in zip(live(model, chunks, hop=2), want, strict=True):
        torch.testing.assert_close(a, b)
    assert (record.recorded, record.replayed) == (1, 5)


def test_another_hop_is_another_recording():
    model = encoder(record=(record := ByHand()))
    chunks = [(noise(1, BLOCK, 8), [BLOCK])]
    for hop in (4, 2, 3):
        for a, b in zip(live(model, chunks, hop=hop), live(encoder(), chunks, hop=hop), strict=True):
            torch.testing.assert_close(a, b)
    assert (record.recorded, record.replayed) == (3, 3)


def test_rows_that_do_not_line_up_go_the_common_way():
    chunks = [(noise(2, 6, 8, seed=i), lengths) for i, lengths in enumerate([[4, 2], [6, 6], [4, 4], [0, 4]])]
    want = live(encoder(), chunks, torch.tensor([4, 2]))
    model = encoder(record=(record := ByHand()))
    for a, b in zip(live(model, chunks, torch.tensor([4, 2])), want, strict=True):
        torch.testing.assert_close(a, b)
    assert not record.recorded


def test_results_stay_when_the_next_step_comes():
    model = encoder(record=ByHand())
    x, lengths = noise(2, BLOCK, 8), torch.tensor([BLOCK, BLOCK])
    with torch.inference_mode():
        first = model.step(x, lengths, model.init_state(2, block=BLOCK))
        kept = map_state(torch.clone, (first.x, first.state))
        model.step(-x, lengths, first.state)
    for a, b in zip(leaves((first.x, first.state)), leaves(kept), strict=True):
        assert torch.equal(a, b)


def test_sizes_are_shared_by_powers_of_two_and_bounded(monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 2)
    model = encoder(record=(record := ByHand()))
    for rows in (3, 4, 2, 7, 3):
        chunks = [(noise(rows, BLOCK, 8), [BLOCK] * rows)]
        for a, b in zip(live(model, chunks), live(encoder(), chunks), strict=True):
            torch.testing.assert_close(a, b)
    assert (record.recorded, record.replayed) == (2, 4)  # 3 and 4 rows; 2 rows; 7 as they are


def test_with_gradients_nothing_is_recorded():
    model = encoder(record=(record := ByHand()))
    x = noise(1, BLOCK, 8).requires_grad_()
    y, _, _ = model.step(x, torch.tensor([BLOCK]), model.init_state(1, block=BLOCK))
    y.sum().backward()
    assert x.grad.any()
    assert not record.recorded


@pytest.mark.parametrize("when", ["recording", "replaying"])
def test_where_graphs_fail_the_layers_go_on_by_themselves_and_one_warning_says_so(when, caplog):
    def record(run, *inputs):
        if when == "recording":
            raise RuntimeError("CUDA error: planted")

        def replay():
            raise RuntimeError("CUDA error: planted")

        return replay, run(*inputs)

    chunks = [(noise(2, BLOCK, 8, seed=i), [BLOCK] * 2) for i in range(3)]
    for a, b in zip(live(encoder(record=record), chunks), live(encoder(), chunks), strict=True):
        torch.testing.assert_close(a, b)
    (warning,) = caplog.messages
    assert "planted" in warning


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@MIXERS
@pytest.mark.parametrize("hop", [4, 2])
def test_a_cuda_graph_is_the_layers_own(mixer, hop):
    chunks = [(noise(3, BLOCK, 8, seed=i), [BLOCK] * 3) for i in range(3)]
    want = live(encoder(mixer), chunks, hop=hop)
    model = encoder(mixer, record_cuda).cuda()
    state = map_state(torch.Tensor.cuda, model.init_state(3, block=BLOCK, hop=hop))
    found = []
    with torch.inference_mode():
        for x, lengths in chunks:
            y, n, state = model.step(x.cuda(), torch.tensor(lengths).cuda(), state)
            found += [y[i, : n[i]] for i in range(3)]
    for a, b in zip([*found, *leaves(state)], want, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)
