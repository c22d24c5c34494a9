"""The graph network: neighbours as defined, both directions of time, its file, and that neighbours tell it something."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from samba_asr.errors import UserError
from samba_asr.models.graph import FILE, ArcGraph, GraphMamba, LocalEncoding, load_graph, save_graph
from samba_asr.training.graph import Example, loss, train


def graph(seed: int = 0, nodes: int = 6, arcs: int = 12, features: int = 3) -> ArcGraph:
    """Words between random nodes, rivals at random."""
    rng = torch.Generator().manual_seed(seed)
    start = torch.randint(nodes - 1, (arcs,), generator=rng).sort().values
    end = start + 1 + (torch.rand(arcs, generator=rng) * (nodes - 1 - start)).long()
    rivals = torch.tensor([[a, b] for a in range(arcs) for b in range(arcs) if a != b and (a * b + seed) % 3 == 0])
    x = torch.randn(arcs, features, generator=rng)
    return ArcGraph(x, start, end, rivals, torch.rand(arcs, generator=rng), nodes)


def test_local_encoding_is_its_definition():
    g, layer = graph(), LocalEncoding(4)
    h = torch.randn(len(g.start), 4)

    def mean(linear, others: list[int]):
        total = sum((g.share[b] * linear(h[b]) for b in others), torch.zeros(4))
        return total / (sum(g.share[b] for b in others) + 1e-3)

    arcs = range(len(g.start))
    for a, found in enumerate(layer(h, g)):
        y = layer.own(h[a])
        y = y + mean(layer.before, [b for b in arcs if g.end[b] == g.start[a]])
        y = y + mean(layer.behind, [b for b in arcs if g.start[b] == g.end[a]])
        y = y + mean(layer.rival, [b for a_, b in g.rivals.tolist() if a_ == a])
        torch.testing.assert_close(found, F.silu(layer.norm(y)))


@pytest.mark.parametrize(("local", "mamba", "reach"), [(0, 0, "itself"), (2, 0, "near"), (0, 1, "all")])
def test_what_each_part_lets_a_word_see(local, mamba, reach):
    """A chain of words without rivals: a change at its middle."""
    n = 9
    chain = ArcGraph(
        torch.randn(n, 3), torch.arange(n), torch.arange(1, n + 1), torch.zeros(0, 2, dtype=torch.long), torch.ones(n), n + 1
    )  # fmt: skip
    network = GraphMamba(3, local=local, mamba=mamba).eval()
    torch.nn.init.normal_(network.out.weight)  # it begins as 0
    changed = chain.features.clone()
    changed[4] += 1
    moved = (network(chain) - network(chain._replace(features=changed))).abs() > 1e-7
    seen = {"itself": [4], "near": [2, 3, 4, 5, 6], "all": list(range(n))}[reach]
    assert moved.nonzero()[:, 0].tolist() == seen


def test_it_begins_as_a_logistic_regression():
    g, network = graph(), GraphMamba(3).eval()
    torch.testing.assert_close(network(g), network.skip(g.features)[:, 0])


def test_it_learns_from_neighbours_and_leaves_the_generator_alone():
    """A word is right if the one before it has a large first feature: no word tells of itself."""
    n = 8
    examples = []
    for seed in range(24):
        x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
        none = torch.zeros(0, 2, dtype=torch.long)
        g = ArcGraph(x, torch.arange(n), torch.arange(1, n + 1), none, torch.ones(n), n + 1)
        right = torch.cat([torch.tensor([-1.0]), (x[:-1, 0] > 0).float()])
        examples.append(Example(g, right, torch.arange(1, n), right[1:]))
    before = torch.random.get_rng_state()
    losses = {
        local: sum(loss(train(examples[:20], epochs=10, local=local, mamba=0), e) for e in examples[20:])
        for local in (0, 1)
    }
    assert torch.equal(before, torch.random.get_rng_state())
    assert losses[1] < 0.6 * losses[0]


def test_its_file_is_small_and_of_one_model(tmp_path):
    assert load_graph(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    network, g = GraphMamba(15).eval().half().float(), graph(features=15)  # the file has 16 bits
    save_graph(tmp_path, network)
    assert (tmp_path / FILE).stat().st_size < 100_000
    torch.testing.assert_close(load_graph(tmp_path)(g), network(g))
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="trained for another model"):
        load_graph(tmp_path)
    (tmp_path / FILE).write_bytes(b"no such file")
    with pytest.raises(UserError, match="not a model of lattices"):
        load_graph(tmp_path)
