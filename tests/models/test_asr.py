"""The whole model, without what it is trained for."""

from __future__ import annotations

import pytest
import torch

from samba_asr.config import ModelConfig
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from tests.contract import awake
from tests.models.tiny import batch, tiny


def test_log_probabilities_sum_to_one():
    torch.manual_seed(0)
    model = awake(AsrModel(tiny(decoder=1))).double().eval()
    log_probs, _ = model.log_probs(batch().audio.double(), batch().lengths, block=3)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 12, dtype=torch.float64))


def test_log_probabilities_are_float32_under_autocast():
    model = awake(AsrModel(tiny())).eval()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, _ = model.log_probs(batch().audio, batch().lengths)
    assert log_probs.dtype == torch.float32


def test_a_model_needs_a_tokenizer():
    with pytest.raises(UserError, match=r"model.vocab_size 0 must be the tokenizer's"):
        AsrModel(ModelConfig())


def count(config):
    return sum(p.numel() for p in AsrModel(config).parameters())


def test_parameter_counts():
    d, n, heads = 8, 3, 4  # d_inner 16 in heads of 4
    feed_forward = 2 * d + (d * 2 * d + 2 * d) + (2 * d * d + d)
    hydra = d * (2 * 16 + 4 * n + 2 * heads) + (16 + 4 * n) * (7 + 1) + 3 * heads + 16 * heads + 16 + 16 * d
    convolution = (d * 2 * d + 2 * d) + d * (5 + 1) + 2 * d + (d * d + d)
    layer = 2 * feed_forward + hydra + convolution + 3 * 2 * d
    front = (2 * 9 + 2) + (2 * 2 * 9 + 2) + (1 * 2 * d + d) + 2 * d
    assert count(tiny()) == front + 2 * layer + (d * 5 + 5)


def test_the_default_model_is_the_size_it_is_said_to_be():
    """A guard: weights are published, so a change of these numbers is a change of the format."""
    assert count(ModelConfig(vocab_size=256)) == 3_238_504


def test_hydra_is_smaller_than_two_mixers():
    assert count(tiny("hydra", layers=4)) < count(tiny("mamba2", layers=4))
