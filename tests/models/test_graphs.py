"""Recorded steps: what a replay gives is what the layers give, whoever else is in the batch and whatever comes next."""

from __future__ import annotations

import pytest
import torch

from samba_asr.models import graphs
from samba_asr.models.encoder import Encoder
from samba_asr.streaming import leaves, map_state
from tests.contract import awake
from tests.models.tiny import noise, tiny

MIXERS = pytest.mark.parametrize("mixer", ["mamba", "mamba2", "hydra"])
BLOCK = 4


class ByHand:
    """Records as CUDA does, as far as a CPU can: a replay does it again, from the same buffers into the same buffers."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, act):
        y, after = act()
        self.recorded += 1

        def replay():
            self.replayed += 1
            again = act()
            for old, new in zip(leaves((y, after)), leaves(again), strict=True):
                old.copy_(new)

        return replay, (y, after)


def encoder(mixer="hydra", overlap=0.0):
    torch.manual_seed(0)
    model = awake(Encoder(tiny(mixer, layers=3, self_conditioning=(1,)))).eval()
    model.overlap = overlap
    return model


def live(model, chunks, block=BLOCK):
    """The frames of sessions that hear `chunks` (b, t, d), with their lengths; the last state."""
    rows = chunks[0][0].shape[0]
    found, state = [], model.init_state(rows, block=block)
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
    model, record = encoder(mixer), ByHand()
    model.record_steps(record)
    for a, b in zip(live(model, chunks), want, strict=True):
        torch.testing.assert_close(a, b)
    assert (record.recorded, record.replayed) == (1, 4)


@MIXERS
def test_recorded_steps_of_blocks_that_overlap_are_the_layers_own(mixer):
    chunks = [(noise(3, t, 8, seed=t), [t] * 3) for t in (BLOCK, 2, 2, 5)]  # a hop is half a block; the last has two
    want = live(encoder(mixer, overlap=0.5), chunks)
    model, record = encoder(mixer, overlap=0.5), ByHand()
    model.record_steps(record)
    for a, b in zip(live(model, chunks), want, strict=True):
        torch.testing.assert_close(a, b)
    assert (record.recorded, record.replayed) == (1, 5)


def test_an_overlap_that_changes_is_another_recording():
    model, record = encoder(), ByHand()
    model.record_steps(record)
    chunks = [(noise(1, BLOCK, 8), [BLOCK])]
    for overlap in (0.0, 0.5, 0.25):
        model.overlap = overlap
        for a, b in zip(live(model, chunks), live(encoder(overlap=overlap), chunks), strict=True):
            torch.testing.assert_close(a, b)
    assert (record.recorded, record.replayed) == (3, 3)


def test_rows_that_do_not_line_up_go_the_common_way():
    chunks = [(noise(2, 6, 8, seed=i), lengths) for i, lengths in enumerate([[4, 2], [6, 6], [4, 4], [0, 4]])]
    want = live(encoder(), chunks, torch.tensor([4, 2]))
    model, record = encoder(), ByHand()
    model.record_steps(record)
    for a, b in zip(live(model, chunks, torch.tensor([4, 2])), want, strict=True):
        torch.testing.assert_close(a, b)
    assert not record.recorded


def test_results_stay_when_the_next_step_comes():
    model = encoder()
    model.record_steps(ByHand())
    x, lengths = noise(2, BLOCK, 8), torch.tensor([BLOCK, BLOCK])
    with torch.inference_mode():
        first = model.step(x, lengths, model.init_state(2, block=BLOCK))
        kept = map_state(torch.clone, (first.x, first.state))
        model.step(-x, lengths, first.state)
    for a, b in zip(leaves((first.x, first.state)), leaves(kept), strict=True):
        assert torch.equal(a, b)


def test_sizes_are_shared_by_powers_of_two_and_bounded(monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 2)
    model, record = encoder(), ByHand()
    model.record_steps(record)
    for rows in (3, 4, 2, 7, 3):
        chunks = [(noise(rows, BLOCK, 8), [BLOCK] * rows)]
        for a, b in zip(live(model, chunks), live(encoder(), chunks), strict=True):
            torch.testing.assert_close(a, b)
    assert (record.recorded, record.replayed) == (2, 4)  # 3 and 4 rows; 2 rows; 7 as they are


def test_with_gradients_nothing_is_recorded():
    model, record = encoder(), ByHand()
    model.record_steps(record)
    x = noise(1, BLOCK, 8).requires_grad_()
    y, _, _ = model.step(x, torch.tensor([BLOCK]), model.init_state(1, block=BLOCK))
    y.sum().backward()
    assert x.grad.any()
    assert not record.recorded


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@MIXERS
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_cuda_graph_is_the_layers_own(mixer, overlap):
    chunks = [(noise(3, BLOCK, 8, seed=i), [BLOCK] * 3) for i in range(3)]
    want = live(encoder(mixer, overlap=overlap), chunks)
    model = encoder(mixer, overlap=overlap).cuda()
    model.record_steps()
    state = map_state(torch.Tensor.cuda, model.init_state(3, block=BLOCK))
    found = []
    with torch.inference_mode():
        for x, lengths in chunks:
            y, n, state = model.step(x.cuda(), torch.tensor(lengths).cuda(), state)
            found += [y[i, : n[i]] for i in range(3)]
    for a, b in zip([*found, *leaves(state)], want, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)
