"""One step of the optimizer: from batches to updated weights, robust against bad batches and lack of memory."""

from __future__ import annotations

import logging
import math
import random
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from samba_asr.config import Config
from samba_asr.data.bucketing import derive_seed
from samba_asr.data.dataset import Batch
from samba_asr.device import compute_dtype
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.hooks import AfterStep, BeforeStep
from samba_asr.training.distributed import Ranks
from samba_asr.training.evaluate import autocast
from samba_asr.training.objectives import Objective, Outcome
from samba_asr.training.optim import MovingAverage, make_optimizer

logger = logging.getLogger(__name__)

WHOLE = -1  # block size: the whole utterance


class SeededBatch(NamedTuple):
    """A batch and the seed of its random choices."""

    batch: Batch
    seed: int  # of its masks and its dropout
    easy: bool = False  # without augmentation of features, dropout and blocks


class StepResult(NamedTuple):
    """Sums over the batches of a step and over ranks."""

    losses: dict[str, float]  # `loss`, which is minimized, and its parts by name; sums over units
    units: float  # tokens or frames, the divisor of the losses
    seconds: float  # of audio
    bad: float  # batches, or gradients, that were not finite
    norm: float  # of the gradient before clipping; 0 if there was none


class Stepper:
    """Objective, optimizer and moving average on one rank."""

    def __init__(self, objective: Objective, config: Config, ranks: Ranks):
        self.objective, self.config, self.ranks = objective, config, ranks
        self.dtype = compute_dtype(config.train.dtype, ranks.device)
        self.optimizer = make_optimizer(objective, config.optim)
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.names = ("loss", *objective.part_names)
        self.average: MovingAverage | None = None
        self._before = [m for m in objective.modules() if isinstance(m, BeforeStep)]
        self._after = [m for m in objective.modules() if isinstance(m, AfterStep)]

    def step(self, work: list[SeededBatch], *, number: int, lr: float) -> StepResult:
        """Take step `number` on this rank's `work`, together with the other ranks.

        The loss is the sum over all batches divided by all their units.  A batch whose loss is not finite is logged and
        left out.  If none remains, or the gradient is not finite, the weights do not change.
        """
        sums, seconds, bad = self._backward(work, number)
        *sums, units, seconds, bad = self.ranks.sum([*sums, seconds, bad])
        norm = 0.0
        if units > 0:
            norm = self._update(units, number, lr)
            if not math.isfinite(norm):
                bad += 1
                ids = " ".join(i for w in work for i in w.batch.ids)
                logger.warning("step %d is not taken: its gradient is not finite; utterances: %s", number, ids)
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(dict(zip(self.names, sums, strict=True)), units, seconds, bad, norm)

    def _update(self, units: float, number: int, lr: float) -> float:
        """Divide the summed gradients by `units`, clip, update the weights; return the norm before clipping."""
        self.ranks.sum_gradients(self.parameters)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._foreach_div_(gradients, units)  # pyright: ignore[reportPrivateImportUsage]
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.optim.clip or math.inf))
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            for module in self._after:
                module.after_step()
            if self.average:
                self.average.update(self.objective, number)
        return norm

    def _backward(self, work: list[SeededBatch], number: int) -> tuple[list[float], float, int]:
        """Compute the gradient of the summed loss in .grad; return sums, seconds of audio, number of batches not finite.

        Sums are those of `names`, then the units.

        A batch that is out of memory is split in two, and the whole step restarts, because the failed backward may have
        left a partial gradient.  An utterance that does not fit alone is logged and left out.
        """
        pending = [w for w in work if len(w.batch.ids)]
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            for module in self._before:
                module.before_step()
            sums, samples, bad = [0.0] * (len(self.names) + 1), 0, 0
            for i, w in enumerate(pending):
                found = self._forward_backward(w, number)
                if found == "out of memory":  # handled here, where the exception no longer holds the graph's tensors
                    pending[i : i + 1] = self._halves(w, number)
                    break
                if found is None:
                    bad += 1
                    continue
                sums = [a + b for a, b in zip(sums, found, strict=True)]
                samples += int(w.batch.lengths.sum())
            else:
                return sums, samples / self.config.model.features.sample_rate, bad

    def _forward_backward(self, work: SeededBatch, number: int) -> list[float] | Literal["out of memory"] | None:
        """Run forward and backward; return the sums of the batch, or None, without backward, if its loss is not finite."""
        seed = derive_seed("block", self.config.train.seed, number)  # all batches of a step have one block size
        block = WHOLE if work.easy else self.objective.draw_block(random.Random(seed))
        generator = torch.Generator().manual_seed(derive_seed("masks", work.seed))
        torch.manual_seed(work.seed)  # dropout
        batch = work.batch.to(self.ranks.device)
        try:
            with autocast(self.ranks.device, self.dtype), Dropout.off(self.objective, work.easy):
                outcome = self.objective(batch, block=block, augment=not work.easy, generator=generator)
            sums = torch.stack([x.detach().double().sum() for x in self._columns(outcome)]).tolist()
            if math.isfinite(sums[0]):
                outcome.loss.sum().backward()
                return sums
        except torch.OutOfMemoryError:
            return "out of memory"
        bad = " ".join(i for i, ok in zip(batch.ids, outcome.loss.isfinite().tolist(), strict=True) if not ok)
        logger.warning("step %d: a batch is left out, its loss is not finite; utterances: %s", number, bad)
        return None

    def _columns(self, outcome: Outcome) -> list[Tensor]:
        """Return the loss, the parts in the order of `names` (zeros for missing ones), and the units."""
        zeros = torch.zeros_like(outcome.loss)
        parts = [outcome.parts.get(name, zeros) for name in self.names[1:]]
        return [outcome.loss, *parts, outcome.units]

    def _halves(self, work: SeededBatch, number: int) -> list[SeededBatch]:
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        batch, seed, easy = work
        b = len(batch.ids)
        seconds = b * batch.audio.shape[1] / self.config.model.features.sample_rate
        if b == 1:
            logger.warning("step %d: out of memory: %s (%.1f s) is left out", number, batch.ids[0], seconds)
            return []
        logger.warning(
            "step %d: out of memory: a batch of %d utterances (%.0f s) is cut in two; if often, lower "
            "data.batch_seconds=%g",
            number,
            b,
            seconds,
            self.config.data.batch_seconds,
        )
        half = b // 2
        return [
            SeededBatch(batch.rows(0, half), derive_seed(seed, 0), easy),
            SeededBatch(batch.rows(half, b), derive_seed(seed, 1), easy),
        ]
