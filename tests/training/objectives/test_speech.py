"""The speech objective: losses of each utterance that no batch mate and no padding can change."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from samba_asr.config import AugmentConfig, Config, LossConfig
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.training.objectives.base import draw_block
from samba_asr.training.objectives.speech import SpeechObjective
from samba_asr.training.objectives.terms import consistency
from tests.contract import awake
from tests.models.tiny import FRAME, batch, noise, tiny

ALL = LossConfig(ctc=1.0, decoder=0.5, cr_ctc=0.2, label_smoothing=0.1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return awake(AsrModel(tiny(decoder=1))).double().eval()


def objective(model, loss, augment=None, *, config=None, **options):
    """The speech objective of `model`, of its precision."""
    config = Config(model=config or model.config, loss=loss, augment=augment or AugmentConfig())
    return SpeechObjective(model, config, **options).to(model.ctc.linear.weight.dtype)


def losses_of(model, given, loss=ALL, augment=None, **call):
    """Augmented where `augment` is given."""
    return objective(model, loss, augment)(given, augment=augment is not None, **call)


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
    losses = losses_of(model, given, block=2, loss=dataclasses.replace(ALL, cr_ctc=0.0))
    log_probs, lengths = model.log_probs(given.audio, given.lengths, block=2)
    assert lengths.tolist() == [12, 9, 7]
    want = F.ctc_loss(log_probs.transpose(0, 1), given.tokens, lengths, given.token_lengths, reduction="none")
    torch.testing.assert_close(losses.parts["ctc"], want)
    frames, _ = model.acoustic(given.audio[..., None], given.lengths, 2)
    memory = model.decoder.absorb(frames, lengths, model.decoder.init_memory(3, dtype=frames.dtype))
    torch.testing.assert_close(
        losses.parts["decoder"], model.decoder.loss(given.tokens, given.token_lengths, memory, 0.1)
    )
    torch.testing.assert_close(losses.loss, losses.parts["ctc"] + 0.5 * losses.parts["decoder"])
    assert losses.parts.keys() == {"ctc", "decoder"}
    assert torch.equal(losses.units, given.token_lengths)


def test_ctc_in_the_middle_has_its_share():
    torch.manual_seed(0)
    model = awake(AsrModel(tiny(layers=3, self_conditioning=(1, 2)))).double().eval()
    given, loss = double(batch()), LossConfig(intermediate=0.25)
    losses = losses_of(model, given, block=2, loss=loss)
    features = model.acoustic.subsampling(*model.features(given.audio[..., None], given.lengths))
    _, lengths, middle = model.acoustic.encoder.read(*features, 2)
    texts = given.tokens, lengths, given.token_lengths
    first, second = (F.ctc_loss(v.transpose(0, 1), *texts, reduction="none") for v in middle)
    torch.testing.assert_close(losses.loss, 0.75 * losses.parts["ctc"] + 0.25 * (first + second) / 2)
    losses.loss.sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.acoustic.encoder.conditioning.parameters())


@pytest.mark.parametrize("loss", [LossConfig(), dataclasses.replace(ALL, cr_ctc=0.0), ALL], ids=["ctc", "both", "all"])
@pytest.mark.parametrize("block", [-1, 2])
def test_each_utterance_is_as_if_alone_and_padding_may_hold_nan(model, block, loss):
    given = poisoned(double(batch()))
    together = losses_of(model, given, block=block, loss=loss)
    for row in range(3):
        alone = losses_of(model, given.rows(row, row + 1), block=block, loss=loss)
        for name, x in together.parts.items():
            torch.testing.assert_close(alone.parts[name][0], x[row], msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(alone.loss[0], together.loss[row])
    together.loss.sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), name


def test_an_unused_decoder_costs_nothing_and_learns_nothing(model):
    losses = losses_of(model, double(batch()), loss=LossConfig(decoder=0.0))
    losses.loss.sum().backward()
    assert "decoder" not in losses.parts
    assert all(p.grad is None for p in model.decoder.parameters())


def test_a_text_that_is_too_long_for_its_audio_counts_as_zero(model):
    given = double(batch())
    short = given._replace(lengths=torch.tensor([12, 9, 1]) * FRAME, token_lengths=torch.tensor([3, 1, 2]))
    losses = losses_of(model, short, loss=LossConfig())
    assert losses.parts["ctc"][2] == 0
    losses.loss.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_silence_has_an_empty_text_to_learn(model):
    given = double(batch())
    silent = given._replace(token_lengths=torch.tensor([0, 0, 2]))
    without = given._replace(tokens=given.tokens[:, :0], token_lengths=torch.zeros(3, dtype=torch.long))
    log_probs, lengths = model.log_probs(given.audio, given.lengths)
    blanks = torch.stack([-row[:n, 0].sum() for row, n in zip(log_probs, lengths, strict=True)])
    torch.testing.assert_close(losses_of(model, silent).parts["ctc"][:2], blanks[:2])
    losses = losses_of(model, without)  # a batch of nothing else
    torch.testing.assert_close(losses.parts["ctc"], blanks)
    losses.loss.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# --- consistency of two views


def rows_encoded(model, **options):
    """Losses of `batch()`, and how many rows the encoder saw for them."""
    rows = []
    with model.acoustic.subsampling.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0])):
        losses = losses_of(model, double(batch()), **options)
    return losses, sum(rows)


def test_consistency_is_zero_when_both_views_are_equal(model):
    losses, rows = rows_encoded(model, augment=AugmentConfig(time_masks=0, freq_masks=0), generator=torch.Generator())
    assert rows == 6
    assert not losses.parts["cr"].any()
    one_view = losses_of(model, double(batch()), loss=dataclasses.replace(ALL, cr_ctc=0.0))
    torch.testing.assert_close(losses.loss, one_view.loss)


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
    assert not losses.parts["cr"].any()


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
        return losses_of(model, double(batch()), augment=augment, generator=generator)

    assert (run(1).parts["cr"] > 0).all()
    assert torch.equal(run(1).loss, run(1).loss)
    assert not torch.equal(run(1).loss, run(2).loss)


# --- blocks


def test_blocks_are_drawn_from_the_configuration():
    def draw(rng, **blocks):
        return objective(AsrModel(tiny(**blocks)), LossConfig()).draw_block(rng)

    rng = random.Random(0)
    counts = Counter(draw_block((2, 4), 0.5, rng) for _ in range(2000))
    assert set(counts) == {-1, 2, 4}
    assert abs(counts[-1] - 1000) < 100
    assert abs(counts[2] - 500) < 100
    assert {draw(rng, blocks=()) for _ in range(20)} == {-1}
    assert {draw(rng, blocks=(2, 4), full_block=0.0) for _ in range(20)} == {2, 4}


# --- a teacher


def test_a_teachers_frames_are_learned_where_both_are_valid_and_in_every_view():
    model = awake(AsrModel(tiny())).double().eval()
    taught = double(batch())._replace(teacher=noise(3, 11, 2).double(), teacher_lengths=torch.tensor([11, 0, 9]))
    nothing = AugmentConfig(time_masks=0, freq_masks=0)
    whole = objective(model, LossConfig(teacher=0.5, cr_ctc=0.2), nothing, config=tiny(teacher=2))
    pupil = whole.terms["teacher"].pupil

    losses = whole(taught)
    frames, _ = model.acoustic(taught.audio.unsqueeze(-1), taught.lengths)
    for row, n in enumerate([11, 0, 7]):  # the third has 7 frames of its own
        wanted = (pupil(frames[row, :n]) - taught.teacher[row, :n]).square().mean(-1).sum()
        torch.testing.assert_close(losses.parts["teacher"][row], wanted)
    torch.testing.assert_close(losses.loss, losses.parts["ctc"] + 0.5 * losses.parts["teacher"])

    poisoned = taught.teacher.clone()
    poisoned[0, 11:], poisoned[1], poisoned[2, 9:] = torch.nan, torch.nan, torch.nan
    losses = whole(taught._replace(teacher=poisoned))
    assert losses.parts["teacher"].isfinite().all()
    losses.loss.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert pupil.weight.grad.abs().sum() > 0
    two_equal_views = whole(taught, augment=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(two_equal_views.parts["teacher"], losses.parts["teacher"].detach())


def test_a_teacher_that_is_not_there_is_an_error():
    with pytest.raises(UserError, match=r"set data\.teacher \(written by samba-asr augment teach"):
        objective(AsrModel(tiny()), LossConfig(teacher=1.0))
    with pytest.raises(UserError, match=r"batches with a teacher's frames"):
        objective(AsrModel(tiny()), LossConfig(teacher=1.0), config=tiny(teacher=2))(batch())


# --- transforms of features


def test_transforms_of_features_may_be_handed_in(model):
    """In their order, in training alone, on normalized features and their lengths."""
    seen = []

    def louder(features, lengths, generator, front):
        seen.append((features.shape, lengths.tolist(), front is model.features))
        return features + 1

    def half(features, lengths, generator, front):
        return features / 2

    plain = objective(model, LossConfig(), feature_transforms=[])
    changed = objective(model, LossConfig(), feature_transforms=[louder, half])
    given = double(batch())
    assert torch.equal(changed(given).loss, plain(given).loss)
    assert seen == []
    with torch.no_grad():
        model.acoustic.features.mean.sub_(model.acoustic.features.std)  # as `louder`
        model.acoustic.features.std.mul_(2)
    expected = plain(given).loss
    with torch.no_grad():
        model.acoustic.features.std.div_(2)
        model.acoustic.features.mean.add_(model.acoustic.features.std)
    torch.testing.assert_close(changed(given, augment=True).loss, expected)
    assert seen == [((3, 48, 4), [48, 36, 28], True)]


# --- missing audio


def long(n=2):
    """A batch of utterances that are long enough to lose a part."""
    given = batch()
    audio = noise(n, 40 * FRAME, 1)[..., 0].double()
    return given._replace(
        audio=audio,
        lengths=torch.tensor([40, 37][:n]) * FRAME,
        tokens=given.tokens[:n],
        token_lengths=given.token_lengths[:n],
        ids=given.ids[:n],
    )


QUIET = AugmentConfig(gap_prob=1.0, time_masks=0, freq_masks=0)


def test_the_encoder_is_told_what_is_missing(model, monkeypatch):
    """The loss with gaps is that of the audio that remains, encoded with the gaps, in both views."""
    given, seen = long(), []
    monkeypatch.setattr("samba_asr.audio.gaps.SHORTEST", 0.004)  # frames of the tiny model are short
    monkeypatch.setattr("samba_asr.audio.gaps.PACKET", 3.0)
    read = model.acoustic.encoder.read
    monkeypatch.setattr(model.acoustic.encoder, "read", lambda *a: (seen.append(a), read(*a))[1])
    for loss in (LossConfig(), LossConfig(cr_ctc=0.2)):
        generator = torch.Generator().manual_seed(3)
        found = objective(model, loss, QUIET)(given, augment=True, block=2, generator=generator)
        x, lengths, _, gap, *_ = seen.pop()
        b = len(given.lengths)
        assert gap[:b].any()
        frames = given.lengths // FRAME
        for row in range(b):  # nothing is lost from time but what ended the utterance
            assert int(lengths[row] + gap[row].sum()) <= int(frames[row])
            assert int(lengths[row]) < int(frames[row])
        if loss.cr_ctc:
            assert torch.equal(gap[:b], gap[b:])
        log_probs, _ = model.ctc(read(x, lengths, 2, gap)[0], lengths)
        tokens = torch.cat([given.tokens] * (len(gap) // b))
        sizes = torch.cat([given.token_lengths] * (len(gap) // b))
        want = F.ctc_loss(log_probs.transpose(0, 1), tokens, lengths, sizes, reduction="none", zero_infinity=True)
        torch.testing.assert_close(found.parts["ctc"], want.view(-1, b).mean(0))


def test_without_augmentation_nothing_is_missing(model, monkeypatch):
    seen, read = [], model.acoustic.encoder.read
    monkeypatch.setattr(model.acoustic.encoder, "read", lambda *a: (seen.append(a), read(*a))[1])
    objective(model, LossConfig(), QUIET)(long(), augment=False, block=2)
    objective(model, LossConfig(), AugmentConfig())(long(), augment=True, block=2, generator=torch.Generator())
    assert [gap for _, _, _, gap, *_ in seen] == [None, None]
