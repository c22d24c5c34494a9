"""The sum over all that could have been said: by listing it, by recursion, and in matrix products."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.ops.crf import log_partition
from tests.ops.checks import assert_agree, padding, values_and_gradients

EVERY_BACKEND = pytest.mark.parametrize("backend", ["naive", "matmul"])


def make(b=3, t=6, v=4, *, seed=0, spread=1.0):
    rng = torch.Generator().manual_seed(seed)
    log_probs = (spread * torch.randn(b, t, v, generator=rng, dtype=torch.float64)).log_softmax(-1)
    trigram = torch.randn(v, v, v, generator=rng, dtype=torch.float64).log_softmax(-1)
    return log_probs, trigram


def of_text(trigram, text):
    """log p(text), its end included."""
    units = (0, 0, *text, 0)
    return sum(float(trigram[units[i : i + 3]]) for i in range(len(text) + 1))


def listed(log_probs, n, trigram):
    """log Z of one row (t, v): every text that n frames can hold, CTC's probability of it times the trigram's."""
    v = log_probs.shape[1]
    terms = []
    for text in (text for u in range(n + 1) for text in itertools.product(range(1, v), repeat=u)):
        said = torch.tensor([text], dtype=torch.long)
        sizes = torch.tensor([n]), torch.tensor([len(text)])
        ctc = (
            -float(F.ctc_loss(log_probs[:, None], said, *sizes, reduction="sum"))
            if n
            else (0.0 if not text else -torch.inf)
        )
        terms.append(ctc + of_text(trigram, text))
    return torch.tensor(terms, dtype=torch.float64).logsumexp(0)


@EVERY_BACKEND
def test_it_is_the_sum_over_every_text(backend):
    log_probs, trigram = make()
    lengths = torch.tensor([6, 3, 0])
    want = torch.stack([listed(row, int(n), trigram) for row, n in zip(log_probs, lengths, strict=True)])
    torch.testing.assert_close(log_partition(log_probs, lengths, trigram, backend=backend), want)


@EVERY_BACKEND
def test_equal_neighbours_need_a_blank_between_them(backend):
    always_one = torch.tensor(
        [[[-torch.inf, 0.0, -torch.inf]] * 4], dtype=torch.float64
    )  # no blank, so the text is one unit
    _, trigram = make(v=3)
    found = log_partition(always_one, torch.tensor([4]), trigram, backend=backend)
    assert float(found) == pytest.approx(of_text(trigram, (1,)))


def test_values_and_gradients_are_those_of_the_recursion_with_nan_in_the_padding():
    log_probs, trigram = make(b=4, t=9, v=5)
    lengths = torch.tensor([9, 4, 0, 1])
    log_probs = log_probs.masked_fill(padding(9, lengths)[..., None], float("nan"))

    def partition(log_probs, backend="matmul"):
        return log_partition(log_probs, lengths, trigram, backend=backend)

    assert_agree(
        partition, lambda **inputs: partition(**inputs, backend="naive"), {"log_probs": log_probs}, tolerance=1e-12
    )
    got = values_and_gradients(partition, {"log_probs": log_probs})
    assert not got["gradient of log_probs"][padding(9, lengths)].any()


def test_the_gradient_are_posteriors_of_the_units():
    log_probs, trigram = make(b=2, t=7, v=5)
    lengths = torch.tensor([7, 5])
    log_probs.requires_grad_()
    (gradient,) = torch.autograd.grad(log_partition(log_probs, lengths, trigram).sum(), log_probs)
    assert (gradient >= 0).all()
    torch.testing.assert_close(gradient.sum(-1), (~padding(7, lengths)).double())


def test_gradcheck():
    log_probs, trigram = make(b=2, t=5, v=3)
    lengths = torch.tensor([5, 2])
    assert torch.autograd.gradcheck(lambda x: log_partition(x, lengths, trigram), log_probs.requires_grad_())


@given(seed=st.integers(0, 999), t=st.integers(0, 12), spread=st.floats(0.1, 30.0))
def test_float32_stays_close_at_any_sharpness(seed, t, spread):
    log_probs, trigram = make(b=2, t=t, v=5, seed=seed, spread=spread)
    lengths = torch.tensor([t, t // 2])
    want = log_partition(log_probs, lengths, trigram, backend="naive")
    got = log_partition(log_probs.float(), lengths, trigram.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_a_long_row_neither_overflows_nor_vanishes():
    log_probs, trigram = make(b=1, t=3000, v=5, spread=5.0)
    lengths = torch.tensor([3000])
    want = log_partition(log_probs, lengths, trigram)
    x = log_probs.float().requires_grad_()
    got = log_partition(x, lengths, trigram)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.sum(-1), torch.ones(1, 3000))


def test_a_trigram_of_other_units_and_an_unknown_backend_are_refused():
    log_probs, trigram = make(v=4)
    with pytest.raises(UserError, match=r"must be \(v, v, v\) for the 4 units"):
        log_partition(log_probs, torch.tensor([6, 6, 6]), trigram[:3])
    with pytest.raises(UserError, match="no backend 'cuda'"):
        log_partition(log_probs, torch.tensor([6, 6, 6]), trigram, backend="cuda")
