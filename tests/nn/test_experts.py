"""Experts: numbers worked out elsewhere, one expert as a feed-forward, padding, other rows, losses."""

from __future__ import annotations

import torch

from samba_asr.nn.auxiliary import auxiliary_losses, collect
from samba_asr.nn.experts import Experts, balance, route
from samba_asr.nn.linear import FeedForward

D = 4


def wave(shape, b, c=0.0):
    """Return sin(b i + c) over the flat index i, in float64."""
    n = torch.Size(shape).numel()
    return torch.sin(b * torch.arange(n, dtype=torch.float64) + c).view(shape)


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


def layer(experts=3):
    torch.manual_seed(0)
    module = Experts(D, experts, 2, 0.0, 0.01).double()
    torch.nn.init.normal_(module.router.weight)  # not the nearly uniform one of the beginning
    return module


def losses_of(module, x, lengths):
    found = auxiliary_losses(module)
    with collect(found):
        module(x, lengths)
        return {loss.name: loss.values[0] for loss in found}


def test_routing_and_balance_are_those_computed_by_hand():
    """By another program, from the formulas: research/seeds-memory.md, section 4."""
    routing = route(wave((5, 4), 0.37, 0.1) @ wave((3, 4), 1.7, 0.3).t())
    torch.testing.assert_close(routing.probs[0], numbers([0.3060585292, 0.3133957872, 0.3805456836]))
    assert routing.chosen.tolist() == [2, 1, 0, 0, 2]
    torch.testing.assert_close(routing.probs.mean(0), numbers([0.3288713170, 0.3294337997, 0.3416948833]))
    torch.testing.assert_close(balance(routing), numbers(1.0023397202))
    torch.testing.assert_close(routing.logits.logsumexp(-1).square().mean(), numbers(1.3043326836))


def test_balance_is_one_when_uniform_and_e_times_p_when_all_go_to_one():
    even = route(torch.eye(4) * 1e-3)
    torch.testing.assert_close(balance(even), torch.tensor(1.0))
    one = route(torch.tensor([[2.0, 0.0, 0.0, 0.0]]).expand(6, 4))
    torch.testing.assert_close(balance(one), 4 * one.probs[0, 0])


def test_the_output_is_its_definition():
    module, x, lengths = layer(), torch.randn(2, 5, D, dtype=torch.float64), torch.tensor([5, 3])
    y = module(x, lengths)
    for row, n in enumerate(lengths):
        for t in range(n):
            p = module.router(module.norm(x[row, t])).softmax(-1)
            e = int(p.argmax())
            torch.testing.assert_close(y[row, t], p[e] * module.experts[e](x[row, t]))
        assert (y[row, n:] == 0).all()


def test_one_expert_is_a_feed_forward():
    module, dense = layer(1), FeedForward(D, 2, 0.0).double()
    dense.load_state_dict(module.experts[0].state_dict())
    x = torch.randn(2, 5, D, dtype=torch.float64)
    torch.testing.assert_close(module(x, torch.tensor([5, 5])), dense(x))


def test_other_rows_and_padding_change_nothing():
    module = layer()
    x, lengths = torch.randn(6, 7, D, dtype=torch.float64), torch.tensor([7, 4, 0, 7, 1, 7])
    x[1, 4:] = x[2] = x[4, 1:] = torch.nan
    x.requires_grad_()
    together = module(x, lengths)
    for row, n in enumerate(lengths):
        alone = module(x[row : row + 1, :n], lengths[row : row + 1])
        torch.testing.assert_close(together[row, :n], alone[0])
    together.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    assert x.grad.isfinite().all()


def test_losses_do_not_see_padding_and_are_sums_over_units():
    module = layer()
    x, lengths = torch.randn(2, 7, D, dtype=torch.float64), torch.tensor([7, 4])
    before = losses_of(module, x, lengths)
    x[1, 4:] = torch.nan
    after = losses_of(module, x, lengths)
    for name in ("balance", "router_z"):
        torch.testing.assert_close(before[name], after[name])
    torch.testing.assert_close(before["balance"][0] / before["balance"][1], numbers(7 / 4))
    z = module.router(module.norm(x[1, :4])).logsumexp(-1).square().sum()
    torch.testing.assert_close(before["router_z"][1], z)


def test_what_is_not_used_has_no_gradient_and_balance_moves_the_router_alone():
    module = layer(8)
    x, lengths = torch.randn(1, 3, D, dtype=torch.float64), torch.tensor([3])
    module(x, lengths).sum().backward()
    used = set(route(module.router(module.norm(x[0]))).chosen.tolist())
    for i, expert in enumerate(module.experts):
        assert (expert.up.weight.grad is not None) == (i in used)
    module.zero_grad(set_to_none=True)
    losses_of(module, x, lengths)["balance"].sum().backward()
    assert module.router.weight.grad.abs().sum() > 0
    assert all(expert.up.weight.grad is None for expert in module.experts)


def test_the_balance_loss_spreads_the_work():
    """All units alike at first prefer one expert; the loss alone spreads them."""
    torch.manual_seed(0)
    module = Experts(D, 4, 2, 0.0, 0.01)
    x, lengths = torch.randn(1, 256, D), torch.tensor([256])
    with torch.no_grad():
        module.norm.bias.fill_(1.0)
        module.router.weight[2] += 2.0  # one expert is preferred
    optimizer = torch.optim.Adam(module.router.parameters(), lr=0.05)

    def share():
        return float(route(module.router(module.norm(x[0]))).chosen.bincount(minlength=4).max()) / 256

    assert share() > 0.9
    for _ in range(60):
        loss = losses_of(module, x, lengths)["balance"].sum() / 256
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert share() < 0.5
