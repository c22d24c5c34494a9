"""Mixers as matrices: each is semiseparable of the rank that its state claims; `mixer_matrix` is what it multiplies by."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.functional import jacobian

from samba_asr.config import MIXERS, mixer_config
from samba_asr.errors import UserError
from samba_asr.nn.mixers import build_mixer, mixers
from samba_asr.nn.mixers.matrix import mixer_matrix
from samba_asr.ops.blocks import flip, lay_blocks

D, T, N, CODES = 8, 12, 4, 3


def tiny(name, **values):
    values = {"d_state": N, "headdim": 4, "d_conv": 4, "codes": CODES} | values
    return mixer_config(name, **{key: v for key, v in values.items() if key in MIXERS[name].__dataclass_fields__})


def x(t=T):
    return torch.randn(1, t, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


CLAIMS = {
    "mamba": (N,),
    "mamba2": (N,),
    "hydra": (N,),
    "longvq": (N, CODES),  # its scan, and its memory
    "s4": (N,),
    "s4d": (N,),
    "paragru": (1,),
    "paralstm": (2,),
}
"""Numbers that the past of a channel leaves for its future, in each scan of a mixer."""

SCANS = {
    "mamba": ("mamba", "selective_scan"),
    "mamba2": ("mamba2", "ssd"),
    "hydra": ("hydra", "ssd_both_ways"),
    "longvq": ("longvq", "ssd"),
    "s4": ("s4", "lti_with_gaps"),
    "s4d": ("s4", "lti_with_gaps"),
    "paragru": ("rnn", "para_gru"),
    "paralstm": ("rnn", "para_lstm"),
}
"""The scan of each mixer, in its module; its first argument is what the matrix multiplies."""


def scanned(name, monkeypatch, blocks):
    """Run a mixer on an utterance, and return its scans as functions of their inputs alone, and these inputs."""
    file, op = SCANS[name]
    module, calls = importlib.import_module(f"samba_asr.nn.mixers.{file}"), []
    real = getattr(module, op)

    def record(v, *args, **kwargs):
        calls.append((v.detach(), args, kwargs))
        return real(v, *args, **kwargs)

    monkeypatch.setattr(module, op, record)
    torch.manual_seed(0)
    mixer = mixers.build(name, D, tiny(name, dt_min=0.05, dt_max=0.5)).double()
    with torch.no_grad():
        for p in mixer.parameters():  # S4D begins with a mode that does not turn, so its state is half used
            p.add_(0.05 * torch.randn_like(p))
    lengths = torch.tensor([T])
    mixer(x(), lengths, blocks) if name == "hydra" else mixer(x(), lengths)
    return [((lambda v, args=args, kwargs=kwargs: real(v, *args, **kwargs)), v) for v, args, kwargs in calls]


def ways(scan, v, both: bool) -> list[torch.Tensor]:
    """Return the matrices (c, t, t) of each way of a scan, by unit impulses.

    Of a nonlinear scan it is the linear part around the utterance.
    """
    found = []
    for way in range(2 if both else 1):
        J = jacobian(lambda v, way=way: scan(v)[way].reshape(T, -1), v[0][None])  # (t, c, 1, t, ...)
        J = J.squeeze(2).reshape(T, J.shape[1], T, -1)  # (t, c, t, c or several c)
        c = torch.arange(J.shape[1])
        found += [part[:, c, :, c] for part in J.split(J.shape[1], -1)]
    return found


def ranks(matrix, n):
    """Yield the ranks of the blocks below and above the diagonal, for all ways of cutting time."""
    for i in range(1, n):
        yield (
            torch.linalg.matrix_rank(matrix[:, i:, :i], rtol=1e-9),
            torch.linalg.matrix_rank(matrix[:, :i, i:], rtol=1e-9),
        )


def test_every_mixer_has_a_claim():
    assert CLAIMS.keys() == SCANS.keys() == set(mixers)


@pytest.mark.parametrize("size", [T, 5])
@pytest.mark.parametrize("name", CLAIMS)
def test_each_mixer_is_semiseparable_of_the_rank_it_claims(name, size, monkeypatch):
    blocks = lay_blocks(torch.tensor([T]), T, size)
    borders = set(range(0, T, size))
    scans = scanned(name, monkeypatch, blocks)
    assert len(scans) == len(CLAIMS[name])
    for (scan, v), claim in zip(scans, CLAIMS[name], strict=True):
        for way, matrix in enumerate(ways(scan, v, name == "hydra")):
            backward = name == "hydra" and way == 1
            assert matrix.diagonal(dim1=1, dim2=2)[:, 1:].abs().amin() > 0  # a GRU's first step has nothing to reset
            highest = 0
            for i, (below, above) in enumerate(ranks(matrix, T), 1):
                seen, unseen = (above, below) if backward else (below, above)
                assert (unseen == 0).all()
                assert (seen <= claim).all()
                if backward and i in borders:
                    assert (seen == 0).all()
                highest = max(highest, int(seen.max()))
            used = claim if claim != CODES else 1  # of the codes an utterance of 12 steps may use one alone
            assert highest >= used or size < T


@pytest.mark.parametrize("size", [T, 5, 1])
def test_hydras_matrix_is_what_it_multiplies_by(size):
    torch.manual_seed(0)
    mixer: Any = build_mixer(D, tiny("hydra")).double()
    blocks, lengths = lay_blocks(torch.tensor([T]), T, size), torch.tensor([T])
    matrix = mixer_matrix(mixer, x(), blocks)
    u, *_, z, _ = mixer.inputs(x(), lengths, mixer.init_state(1, dtype=torch.float64).conv, blocks)
    y = torch.einsum("hij,jhp->ihp", matrix, u[0].unflatten(-1, (mixer.heads, -1))).flatten(1)
    y = F.rms_norm(y * F.silu(z[0]), y.shape[1:], mixer.norm.weight, 1e-5)
    torch.testing.assert_close(mixer.out_proj(y), mixer(x(), lengths, blocks)[0][0])
    for i, (below, above) in enumerate(ranks(matrix, T), 1):
        assert (below <= N).all()
        assert (above <= (0 if i % size == 0 else N)).all()


@pytest.mark.parametrize("size", [T, 5])
def test_mamba2s_matrices_are_what_it_multiplies_by(size):
    torch.manual_seed(0)
    mixer: Any = build_mixer(D, tiny("mamba2")).double()
    blocks, lengths = lay_blocks(torch.tensor([T]), T, size), torch.tensor([T])
    total = torch.zeros(())
    for way, matrix in zip(
        (mixer.forward_mixer, mixer.backward_mixer), mixer_matrix(mixer, x(), blocks).chunk(2), strict=True
    ):
        back = way is mixer.backward_mixer
        start = way.init_state(1, dtype=torch.float64).conv
        v, reset = (flip(x(), blocks), blocks.start) if back else (x(), None)
        u, _, _, _, z, _ = way.inputs(v, None, start, reset, None)
        u, z = (flip(some, blocks) if back else some for some in (u, z))
        y = torch.einsum("hij,jhp->ihp", matrix, u[0]) + way.D[:, None] * u[0]
        total = total + way.out_proj(way.norm(y.flatten(1), z[0]))
    torch.testing.assert_close(total, mixer(x(), lengths, blocks)[0][0])
    one = build_mixer(D, tiny("mamba2", bidirectional=False)).double()
    assert mixer_matrix(one, x(), blocks).triu(1).abs().max() == 0


def test_a_mixer_without_a_matrix_for_a_head_says_so():
    mixer = build_mixer(D, tiny("s4d")).double()
    with pytest.raises(UserError, match=r"S4d has no matrix of a head.*hydra and mamba2 have one"):
        mixer_matrix(mixer, x(), lay_blocks(torch.tensor([T]), T, 5))
