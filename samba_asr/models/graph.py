"""Graph Mamba over the words of a lattice: how probable is it that each was said there?

A. Behrouz, F. Hashemi, "Graph Mamba: towards learning on graphs with state space models", 2024, arXiv:2402.08678.  The nodes of
its graph are the lattice's arcs.  Of the paper's steps, (1) and (2), tokens of neighbourhoods and their order, need no sampling
and no sorting here: a lattice has few words, and they have times.  So

    h0      a layer over what is known of each word
    h1, h2  local encoding: what is known of the words before it, behind it, and in its place, at one and two steps
    u       of all three, read along time by Mamba-2 in both directions (3), and a feed-forward layer
    logit   of u, and of the features themselves: it begins as a logistic regression

It reads a finished segment.  So it has no state, and streaming has nothing to do with it.

    a  arcs, in the order of time     n  nodes     f  features     e  pairs of rivals     d  channels
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import Mamba2Config
from samba_asr.errors import UserError
from samba_asr.models import one_file
from samba_asr.nn.mixers import build_mixer
from samba_asr.ops.blocks import lay_blocks

FILE = "lattice.safetensors"
D_MODEL = 32
ENDS = 1 << 20  # bytes at either end of the weights that tell one model from another


class ArcGraph(NamedTuple):
    """The words of a lattice as the network reads them."""

    features: Tensor  # (a, f)
    start: Tensor  # (a,) int64: node where the word begins
    end: Tensor  # (a,) int64
    rivals: Tensor  # (e, 2) int64: a word, and another one that is said in its middle
    share: Tensor  # (a,) posterior: the weight of a word among neighbours
    nodes: int


class LocalEncoding(nn.Module):
    """h -> silu(norm(W h + sum over r of the mean W_r h of neighbours)), r: before, behind, rivals; means weighted by `share`."""

    def __init__(self, d: int):
        super().__init__()
        self.own, self.before, self.behind, self.rival = (nn.Linear(d, d) for _ in range(4))
        self.norm = nn.LayerNorm(d)

    def forward(self, h: Tensor, graph: ArcGraph) -> Tensor:
        weight = graph.share[:, None]
        y = self.own(h)
        y = y + _mean(self.before(h) * weight, weight, graph.end, graph.nodes)[graph.start]
        y = y + _mean(self.behind(h) * weight, weight, graph.start, graph.nodes)[graph.end]
        word, other = graph.rivals.T
        y = y + _mean((self.rival(h) * weight)[other], weight[other], word, len(h))
        return F.silu(self.norm(y))


def _mean(x: Tensor, weight: Tensor, place: Tensor, places: int) -> Tensor:
    """Return the weighted means (places, d) of rows x (m, d), already weighted, by their places (m,); 0 without any."""
    total = x.new_zeros(places, x.shape[1]).index_add(0, place, x)
    return total / (x.new_zeros(places, 1).index_add(0, place, weight) + 1e-3)


class GraphMamba(nn.Module):
    """Network from a lattice's words to logits (a,) that each is right.

    local: steps to neighbours.  mamba: layers along time; 0: none.
    mean, deviation (f,): of the features of the training set.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, *, d_model: int = D_MODEL, local: int = 2, mamba: int = 1, dropout: float = 0.2):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.project = nn.Linear(features, d_model)
        self.local = nn.ModuleList(LocalEncoding(d_model) for _ in range(local))
        self.mix = nn.Linear(d_model * (1 + local), d_model)
        config = Mamba2Config(d_state=8, headdim=16)
        self.mamba = nn.ModuleList(build_mixer(d_model, config) for _ in range(mamba))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(mamba))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(d_model), nn.Linear(d_model, 2 * d_model), nn.SiLU(), nn.Dropout(dropout),
            nn.Linear(2 * d_model, d_model),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.out, self.skip = nn.Linear(d_model, 1), nn.Linear(features, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, graph: ArcGraph) -> Tensor:
        x = (graph.features - self.mean) / self.deviation
        h = [self.dropout(F.silu(self.project(x)))]
        for layer in self.local:
            h.append(self.dropout(layer(h[-1], graph)))
        u = self.mix(torch.cat(h, dim=-1))
        length = torch.tensor([len(u)])
        for norm, mixer in zip(self.norms, self.mamba, strict=True):
            u = u + self.dropout(mixer(norm(u)[None], length, lay_blocks(length, len(u), len(u)))[0][0])
        u = u + self.feed_forward(u)
        return (self.skip(x) + self.out(u))[:, 0]


def fingerprint(folder: Path) -> str:
    """Return a short text that another model's folder does not have; "" without weights."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        found = hashlib.sha256(f"{size} ".encode() + file.read(ENDS))
        file.seek(max(0, size - ENDS))
        found.update(file.read())
    return found.hexdigest()[:32]


def save_graph(folder: Path, network: GraphMamba) -> None:
    """Write the network for the model in `folder`, in 16 bits."""
    tensors = {name: x.detach().half() for name, x in network.state_dict().items()}
    about = {"model": fingerprint(folder), "local": str(len(network.local)), "mamba": str(len(network.mamba))}
    one_file.write(folder / FILE, tensors, about)


def load_graph(folder: Path) -> GraphMamba | None:
    """Load the network of a model folder; None if it has none.

    UserError for a file that is none, or that was trained for other weights.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    with one_file.opened(path, "lattices", "samba-asr calibrate --graph") as (about, tensors):
        network = GraphMamba(len(tensors["mean"]), local=int(about["local"]), mamba=int(about["mamba"]))
        network.load_state_dict(tensors)
        made_for = about["model"]
    if made_for != fingerprint(folder):
        raise UserError(f"{path} was trained for another model: run samba-asr calibrate --graph again, or delete it")
    return network.eval()
