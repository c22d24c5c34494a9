"""The whole model: losses of each utterance that no batch mate and no padding can change."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from samba_asr.config import AugmentConfig, LossConfig, ModelConfig
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel, consistency
from tests.contract import awake
from tests.models.tiny import FRAME, batch, noise, tiny

ALL = LossConfig(ctc=1.0, decoder=0.5, cr_ctc=0.2, label_smoothing=0.1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return awake(AsrModel(tiny(decoder=1))).double().eval()


def double(given):
    return given._replace(audio=given.audio.double())


def poisoned(given):
    behind = torch.arange(given.audio.shape[1]) >= given.lengths[:, None]
    text_behind = torch.arange(given.tokens.shape[1]) >= given.token_lengths[:, None]
    return given._replace(
        audio=given.audio.masked_fill(behind, float("nan")), tokens=given.tokens.masked_fill(text_behind, 4)
    )


# --- losses


def test_ctc_is_torchs_and_the_decoders_is_its_own(model):
    given = double(batch())
    losses = model(given, block=2, loss=dataclasses.replace(ALL, cr_ctc=0.0))
    log_probs, lengths = model.log_probs(given.audio, given.lengths, block=2)
    assert lengths.tolist() == [12, 9, 7]
    want = F.ctc_loss(log_probs.transpose(0, 1), given.tokens, lengths, given.token_lengths, reduction="none")
    torch.testing.assert_close(losses.ctc, want)
    frames, _ = model.acoustic(given.audio[..., None], given.lengths, 2)
    memory = model.decoder.absorb(frames, lengths, model.decoder.init_memory(3, dtype=frames.dtype))
    torch.testing.assert_close(losses.decoder, model.decoder.loss(given.tokens, given.token_lengths, memory, 0.1))
    torch.testing.assert_close(losses.total, losses.ctc + 0.5 * losses.decoder)
    assert not losses.cr.any()


def test_ctc_in_the_middle_has_its_share():
    torch.manual_seed(0)
    model = awake(AsrModel(tiny(layers=3, self_conditioning=(1, 2)))).double().eval()
    given, loss = double(batch()), LossConfig(intermediate=0.25)
    losses = model(given, block=2, loss=loss)
    features = model.acoustic.subsampling(*model.features(given.audio[..., None], given.lengths))
    _, lengths, middle = model.acoustic.encoder.read(*features, 2)
    texts = given.tokens, lengths, given.token_lengths
    first, second = (F.ctc_loss(v.transpose(0, 1), *texts, reduction="none") for v in middle)
    torch.testing.assert_close(losses.total, 0.75 * losses.ctc + 0.25 * (first + second) / 2)
    losses.total.sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.acoustic.encoder.conditioning.parameters())


@pytest.mark.parametrize("loss", [LossConfig(), dataclasses.replace(ALL, cr_ctc=0.0), ALL], ids=["ctc", "both", "all"])
@pytest.mark.parametrize("block", [-1, 2])
def test_each_utterance_is_as_if_alone_and_padding_may_hold_nan(model, block, loss):
    given = poisoned(double(batch()))
    together = model(given, block=block, loss=loss)
    for row in range(3):
        alone = model(given.rows(row, row + 1), block=block, loss=loss)
        for name, a, b in zip(together._fields, alone, together, strict=True):
            torch.testing.assert_close(a[0], b[row], msg=lambda text, name=name: f"{name}: {text}")
    together.total.sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), name


def test_an_unused_decoder_costs_nothing_and_learns_nothing(model):
    losses = model(double(batch()), loss=LossConfig(decoder=0.0))
    losses.total.sum().backward()
    assert not losses.decoder.any()
    assert all(p.grad is None for p in model.decoder.parameters())


def test_a_text_that_is_too_long_for_its_audio_counts_as_zero(model):
    given = double(batch())
    short = given._replace(lengths=torch.tensor([12, 9, 1]) * FRAME, token_lengths=torch.tensor([3, 1, 2]))
    losses = model(short, loss=LossConfig())
    assert losses.ctc[2] == 0
    losses.total.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_silence_has_an_empty_text_to_learn(model):
    given = double(batch())
    silent = given._replace(token_lengths=torch.tensor([0, 0, 2]))
    without = given._replace(tokens=given.tokens[:, :0], token_lengths=torch.zeros(3, dtype=torch.long))
    log_probs, lengths = model.log_probs(given.audio, given.lengths)
    blanks = torch.stack([-row[:n, 0].sum() for row, n in zip(log_probs, lengths, strict=True)])
    torch.testing.assert_close(model(silent, loss=ALL).ctc[:2], blanks[:2])
    losses = model(without, loss=ALL)  # a batch of nothing else
    torch.testing.assert_close(losses.ctc, blanks)
    losses.total.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# --- consistency of two views


def rows_encoded(model, **options):
    """Losses of `batch()`, and how many rows the encoder saw for them."""
    rows = []
    with model.acoustic.subsampling.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0])):
        losses = model(double(batch()), loss=ALL, **options)
    return losses, sum(rows)


def test_consistency_is_zero_when_both_views_are_equal(model):
    losses, rows = rows_encoded(model, augment=AugmentConfig(time_masks=0, freq_masks=0), generator=torch.Generator())
    assert rows == 6
    assert not losses.cr.any()
    one_view = model(double(batch()), loss=dataclasses.replace(ALL, cr_ctc=0.0))
    torch.testing.assert_close(losses.total, one_view.total)


def test_the_decoder_learns_from_the_first_view(model, monkeypatch):
    heard, absorb = [], model.decoder.absorb
    monkeypatch.setattr(
        model.decoder, "absorb", lambda frames, *rest: heard.append(len(frames)) or absorb(frames, *rest)
    )
    _, rows = rows_encoded(model, augment=AugmentConfig(), generator=torch.Generator())
    assert (rows, heard) == (6, [3])


def test_without_masks_there_is_one_view(model):
    losses, rows = rows_encoded(model)
    assert rows == 3
    assert not losses.cr.any()


def test_consistency_is_the_divergence_from_the_other_view():
    p = noise(4, 3, 5).double().log_softmax(-1)
    lengths = torch.tensor([3, 1, 3, 1])
    got = consistency(p, lengths)
    for row, other in ((0, 2), (1, 3), (2, 0), (3, 1)):
        n = int(lengths[row])
        want = (p[other, :n].exp() * (p[other, :n] - p[row, :n])).sum()
        torch.testing.assert_close(got[row], want)


def test_consistency_teaches_each_view_and_holds_the_other_fixed():
    logits = noise(2, 3, 5).double().requires_grad_()
    log_probs = logits.log_softmax(-1)
    consistency(log_probs, torch.tensor([3, 3])).sum().backward()
    p = log_probs.detach().exp()
    torch.testing.assert_close(logits.grad, p - p.flip(0))


def test_two_views_are_augmented_apart_and_the_generator_decides(model):
    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        augment = AugmentConfig(time_masks=2, time_width=8, time_ratio=0.5, freq_masks=1, freq_width=3)
        return model(double(batch()), loss=ALL, augment=augment, generator=generator)

    assert (run(1).cr > 0).all()
    assert torch.equal(run(1).total, run(1).total)
    assert not torch.equal(run(1).total, run(2).total)


# --- the rest


def test_log_probabilities_sum_to_one(model):
    log_probs, _ = model.log_probs(batch().audio.double(), batch().lengths, block=3)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 12, dtype=torch.float64))


def test_log_probabilities_are_float32_under_autocast():
    model = awake(AsrModel(tiny())).eval()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, _ = model.log_probs(batch().audio, batch().lengths)
    assert log_probs.dtype == torch.float32


def test_blocks_are_drawn_from_the_configuration():
    model = AsrModel(tiny(blocks=(2, 4), full_block=0.5))
    rng = random.Random(0)
    counts = Counter(model.draw_block(rng) for _ in range(2000))
    assert set(counts) == {-1, 2, 4}
    assert abs(counts[-1] - 1000) < 100
    assert abs(counts[2] - 500) < 100
    always = AsrModel(tiny(blocks=()))
    assert {always.draw_block(rng) for _ in range(20)} == {-1}
    never = AsrModel(tiny(full_block=0.0))
    assert -1 not in {never.draw_block(rng) for _ in range(20)}


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


def test_a_teachers_frames_are_learned_where_both_are_valid_and_in_every_view():
    model = awake(AsrModel(tiny(teacher=2))).double().eval()
    taught = double(batch())._replace(teacher=noise(3, 11, 2).double(), teacher_lengths=torch.tensor([11, 0, 9]))

    def run(taught, augment=None, **loss):
        generator = torch.Generator().manual_seed(0)
        return model(taught, loss=LossConfig(teacher=0.5, **loss), augment=augment, generator=generator)

    losses = run(taught)
    frames, _ = model.acoustic(taught.audio.unsqueeze(-1), taught.lengths)
    for row, n in enumerate([11, 0, 7]):  # the third has 7 frames of its own
        wanted = (model.pupil(frames[row, :n]) - taught.teacher[row, :n]).square().mean(-1).sum()
        torch.testing.assert_close(losses.teacher[row], wanted)
    torch.testing.assert_close(losses.total, losses.ctc + 0.5 * losses.teacher)

    poisoned = taught.teacher.clone()
    poisoned[0, 11:], poisoned[1], poisoned[2, 9:] = torch.nan, torch.nan, torch.nan
    losses = run(taught._replace(teacher=poisoned))
    assert losses.teacher.isfinite().all()
    losses.total.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.pupil.weight.grad.abs().sum() > 0
    nothing = AugmentConfig(time_masks=0, freq_masks=0)
    torch.testing.assert_close(run(taught, nothing, cr_ctc=0.2).teacher, losses.teacher.detach())  # two equal views


def test_a_teacher_that_is_not_there_is_an_error():
    with pytest.raises(UserError, match=r"data\.teacher"):
        AsrModel(tiny())(batch(), loss=LossConfig(teacher=1.0))
