from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from samba_asr.config import Config, LossConfig, TrainConfig
from samba_asr.data.dataset import collate
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.nn.dropout import Dropout
from samba_asr.training.objectives.speech import SpeechObjective
from samba_asr.training.step import SeededBatch, Stepper
from tests.models.tiny import batch, tiny
from tests.support.work import CPU, make_work
from tests.training.toy import Toy, ToyObjective, ToyTask, toy_config


def make_stepper() -> Stepper:
    config = toy_config("optim.clip=0")
    objective = ToyObjective(Toy(config)).eval()  # no dropout: the parts of a batch then add up to the batch
    objective.draw_block = lambda rng: 0
    return Stepper(objective, config, CPU)


def moved(stepper: Stepper, work: list[SeededBatch]) -> torch.Tensor:
    head = stepper.objective.net.head
    before = head.weight.detach().clone()
    stepper.step(work, number=1, lr=0.01).result()
    return head.weight.detach() - before


def spoil(stepper: Stepper, *ids: str, value: float = float("nan")) -> None:
    """The loss of these utterances becomes `value`."""

    def change(outcome, batch):
        factor = torch.tensor([value if i in ids else 1.0 for i in batch.ids])
        return outcome._replace(loss=outcome.loss * factor)

    stepper.objective.change = change


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_left_out_and_its_utterances_named(caplog, value):
    good, bad = make_work(seed=1, name="good"), make_work(seed=2, name="bad")
    stepper = make_stepper()
    spoil(stepper, "bad1", "bad3", value=value)
    with caplog.at_level(logging.WARNING):
        change = moved(stepper, [good, bad])
    assert "bad1 bad3" in caplog.text
    assert "bad0" not in caplog.text
    assert torch.equal(change, moved(make_stepper(), [good]))


def test_training_in_bfloat16_follows_float32():
    whole = tiny(decoder=1, dropout=0.0, blocks=())
    # Eight mels: with four the two curves drift apart by 3 % of the first loss.
    whole = replace(whole, features=replace(whole.features, mels=8))
    curves = {}
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        config = replace(Config(), model=whole, loss=LossConfig(decoder=0.3), train=TrainConfig(dtype=dtype))
        stepper = Stepper(SpeechObjective(AsrModel(whole), config), config, CPU)
        assert stepper.dtype == getattr(torch, dtype)
        work = [SeededBatch(batch(), seed=1, easy=True)]
        curves[dtype] = torch.tensor(
            [stepper.step(work, number=i, lr=0.003).result().losses["loss"] for i in range(60)]
        )
    single, half = curves.values()
    assert single[-1] < 0.3 * single[0]
    assert not torch.equal(single, half)
    assert (half - single).abs().max() < 0.02 * single[0]


def test_an_easy_batch_is_whole_unmasked_and_without_dropout():
    stepper = make_stepper()
    objective = stepper.objective
    objective.net.dropout, seen = Dropout(0.5), []
    objective.draw_block = lambda rng: 4
    compute = objective.compute

    def spy(batch, *, block, augment, generator):
        seen.append((block, augment, objective.net.dropout.p))
        return compute(batch, block=block, augment=augment, generator=generator)

    objective.compute = spy
    work = make_work()
    stepper.step([work._replace(easy=True)], number=1, lr=0.01)
    stepper.step([work], number=2, lr=0.01)
    assert seen == [(-1, False, 0.0), (4, True, 0.5)]


def test_a_step_of_nothing_but_bad_batches_moves_nothing(caplog):
    stepper = make_stepper()
    spoil(stepper, "u0")
    assert not moved(stepper, [make_work()]).any()
    for state in stepper.optimizer.state.values():
        assert not any(x.any() for x in state.values())


def test_a_gradient_that_is_not_finite_moves_nothing(caplog):
    stepper = make_stepper()
    stepper.objective.net.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with caplog.at_level(logging.WARNING):
        assert not moved(stepper, [make_work()]).any()
    assert "gradient is not finite" in caplog.text
    assert "u0 u1 u2 u3" in caplog.text


def test_training_gives_up_after_many_bad_steps_in_a_row(run, tmp_path):
    class Never(ToyTask):
        def objective(self, net):
            objective = ToyObjective(net)
            objective.change = lambda outcome, batch: outcome._replace(loss=outcome.loss * float("nan"))
            return objective

    with pytest.raises(UserError, match=r"20 steps in a row .* optim\.lr=0\.01"):
        run(tmp_path / "exp", "train.epochs=100", "train.valid_every=1000", task=Never)


def no_masks(stepper: Stepper) -> Stepper:
    """Masks are drawn for the batch as a whole, so without them halves add up to it."""
    original = torch.rand
    stepper.objective.compute = _without_rand(stepper.objective.compute, original)
    return stepper


def _without_rand(compute, original):
    def call(*args, **kwargs):
        torch.rand = lambda *shape, generator=None: torch.ones(*shape)
        try:
            return compute(*args, **kwargs)
        finally:
            torch.rand = original

    return call


def test_out_of_memory_splits_the_batch_and_takes_the_same_step(caplog):
    def too_big(batch):
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("simulated")

    work = [make_work(5), make_work(2, seed=2)]
    stepper = no_masks(make_stepper())
    stepper.objective.before = too_big
    with caplog.at_level(logging.WARNING):
        change = moved(stepper, work)
    assert "a batch of 5 utterances" in caplog.text
    assert torch.allclose(change, moved(no_masks(make_stepper()), work), atol=1e-6)


def test_out_of_memory_amid_backward_leaves_no_half_gradient():
    stepper = no_masks(make_stepper())
    raised = []

    def hook(gradient):  # of the first layer: the head's gradient is there already
        if not raised:
            raised.append(True)
            raise torch.OutOfMemoryError("simulated")
        return gradient

    stepper.objective.net.inside.weight.register_hook(hook)
    work = [make_work(4), make_work(2, seed=2)]
    assert torch.allclose(moved(stepper, work), moved(no_masks(make_stepper()), work), atol=1e-6)
    assert raised


def test_an_utterance_that_never_fits_is_left_out(caplog):
    def too_big(batch):
        if "u3" in batch.ids:
            raise torch.OutOfMemoryError("simulated")

    stepper = no_masks(make_stepper())
    stepper.objective.before = too_big
    with caplog.at_level(logging.WARNING):
        change = moved(stepper, [make_work(4)])
    assert "u3 (0.7 s) is left out" in caplog.text
    rest = make_work(4).batch.rows(0, 3)
    assert torch.allclose(change, moved(no_masks(make_stepper()), [SeededBatch(rest, 1)]), atol=1e-6)


def test_the_loss_is_divided_by_the_units_of_all_batches():
    a, b = make_work(2, seed=1), make_work(2, seed=2)
    joined = [make_stepper(), make_stepper()]
    for stepper in joined:
        no_masks(stepper)
    both = collate(
        [*(x.numpy()[:n] for w in (a, b) for x, n in zip(w.batch.audio, w.batch.lengths, strict=True))],
        [[3, 4, 3]] * 4,
        list("abcd"),
    )
    assert torch.allclose(moved(joined[0], [a, b]), moved(joined[1], [SeededBatch(both, 3)]), atol=1e-6)


def test_gradients_lie_in_memory_as_the_fused_update_reads_them(monkeypatch):
    """autograd.grad returns some of them transposed, and the update takes memory as it lies."""
    model = tiny(decoder=1, self_conditioning=(1,))
    config = replace(Config(), model=model, loss=LossConfig(decoder=0.3))
    stepper = Stepper(SpeechObjective(AsrModel(model), config), config, CPU)
    seen = []
    monkeypatch.setattr(stepper.optimizer, "step", lambda: seen.extend((p.grad, p) for p in stepper.parameters))
    stepper.step([SeededBatch(batch(), 1)], number=1, lr=0.01)
    assert [p.shape for gradient, p in seen if gradient is not None and not gradient.is_contiguous()] == []
