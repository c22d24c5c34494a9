"""Product-key memory: numbers worked out elsewhere, the exact search, padding, the gate."""

from __future__ import annotations

import torch

from samba_asr.nn.product_keys import HEADS, ProductKeyMemory, read, search


def wave(shape, b, c=0.0):
    """Return sin(b i + c) over the flat index i, in float64."""
    n = torch.Size(shape).numel()
    return torch.sin(b * torch.arange(n, dtype=torch.float64) + c).view(shape)


def memory(d=6, keys=5):
    torch.manual_seed(0)
    module = ProductKeyMemory(d, keys).double()
    torch.nn.init.normal_(module.gate)
    return module


def test_what_is_found_and_read_is_what_was_computed_by_hand():
    """By another program, from the formulas: research/seeds-memory.md, section 4."""
    found = search(wave((2, 6), 0.9, 0.2), wave((4, 3), 1.1), wave((4, 3), 0.6, 0.7), 2)
    assert found.index.tolist() == [[2, 10], [1, 9]]
    scores = torch.tensor([[2.6168297366, 2.5618356940], [1.7986964226, 1.4219565287]], dtype=torch.float64)
    torch.testing.assert_close(found.scores, scores, rtol=1e-9, atol=1e-9)
    out = torch.tensor([[-0.0306112508, -0.0074021303], [0.0207950525, 0.0648991162]], dtype=torch.float64)
    torch.testing.assert_close(read(found, wave((16, 2), 0.21, 0.1)), out, rtol=1e-8, atol=1e-9)


def test_the_search_is_that_of_all_pairs_of_keys():
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(200, 8, generator=rng)
    first, second = torch.randn(5, 4, generator=rng), torch.randn(5, 4, generator=rng)
    keys = torch.cat([first.repeat_interleave(5, 0), second.repeat(5, 1)], 1)  # (25, 8)
    every = (query @ keys.t()).topk(3)
    found = search(query, first, second, 3)
    torch.testing.assert_close(found.scores, every.values)
    assert (found.index == every.indices).all()


def test_other_rows_and_padding_change_nothing():
    module = memory()
    x, lengths = torch.randn(4, 7, 6, dtype=torch.float64), torch.tensor([7, 4, 0, 1])
    x[1, 4:] = x[2] = x[3, 1:] = torch.nan
    x.requires_grad_()
    together = module(x, lengths)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(together[row, :n], module(x[row : row + 1, :n], lengths[row : row + 1])[0])
        assert (together[row, n:] == 0).all()
    together.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert x.grad.isfinite().all()


def test_it_begins_as_nothing_and_learns():
    torch.manual_seed(0)
    module, x, lengths = ProductKeyMemory(6, 5), torch.randn(2, 3, 6), torch.tensor([3, 3])
    y = module(x, lengths)
    assert (y == 0).all()
    y.sum().backward()
    assert module.gate.grad.abs().sum() > 0
    assert (module.values.grad == 0).all()


def test_only_values_that_were_read_have_a_gradient():
    module = memory(keys=20)
    x = torch.randn(1, 1, 6, dtype=torch.float64)
    module(x, torch.tensor([1])).sum().backward()
    assert 0 < int((module.values.grad.abs().sum(1) > 0).sum()) <= HEADS * 16
