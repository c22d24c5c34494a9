"""One step of the optimizer: from batches to updated weights, robust against bad batches and lack of memory."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from samba_asr.config import Config
from samba_asr.data.bucketing import derive_seed
from samba_asr.data.dataset import Batch
from samba_asr.device import compute_dtype
from samba_asr.errors import UserError
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.hooks import AfterStep, BeforeStep, sum_over_processes
from samba_asr.nn.linear import Low
from samba_asr.training.buckets import RankSum
from samba_asr.training.distributed import Ranks
from samba_asr.training.evaluate import autocast
from samba_asr.training.late import Late
from samba_asr.training.objectives import Objective, Outcome
from samba_asr.training.optim import GradientSum, MovingAverage, make_optimizer, set_learning_rate
from samba_asr.training.sharding import gathered

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


class Pending:
    """A step that was launched; the device may still be at work."""

    def __init__(self, number: int, names: Sequence[str], numbers: Tensor, ids: Sequence[Sequence[str]]):
        """numbers: losses by name, units, batches that were bad, seconds, the norm; then the losses of all `ids` of this rank."""
        self._number, self._names, self._late, self._ids = number, names, Late(numbers), ids

    def result(self) -> StepResult:
        """Wait for the device, and return the sums; log what was bad.  Call it once, best after the next step is launched."""
        n = len(self._names)
        sums, each = (found := self._late.read())[:n], iter(found[n + 4 :])
        units, bad, seconds, norm = found[n : n + 4]
        for ids in self._ids:
            spoiled = [i for i, loss in zip(ids, each, strict=False) if not math.isfinite(loss)]
            if spoiled:
                what = "a batch is left out, its loss is not finite"
                logger.warning("step %d: %s; utterances: %s", self._number, what, " ".join(spoiled))
        norm = norm if units > 0 else 0.0
        if not math.isfinite(norm):
            bad += 1
            ids = " ".join(i for ids in self._ids for i in ids)
            logger.warning("step %d is not taken: its gradient is not finite; utterances: %s", self._number, ids)
        return StepResult(dict(zip(self._names, sums, strict=True)), units, seconds, bad, norm)


class Stepper:
    """Objective, optimizer and moving average on one rank.

    A step waits for nothing that the device computes.  What depends on it, such as whether a loss is finite, the device decides.
    """

    def __init__(self, objective: Objective, config: Config, ranks: Ranks, *, sharded: bool = False):
        """sharded: `objective` is that of a `Sharding`, whose steps wait for the device."""
        self.objective, self.config, self.ranks = objective, config, ranks
        self.dtype = compute_dtype(config.train.dtype, ranks.device)
        self.optimizer = make_optimizer(objective, config.optim)
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.names = ("loss", *objective.part_names)
        self.average: MovingAverage | None = None
        self.sharded = sharded
        self.summing = RankSum(self.parameters) if ranks.size > 1 and not sharded else None
        lowers = ranks.device.type == "cuda" and self.dtype != torch.float32 and not sharded
        self.low = Low(objective, self.dtype) if lowers else None
        self._before = [m for m in objective.modules() if isinstance(m, BeforeStep)]
        self._after = [m for m in objective.modules() if isinstance(m, AfterStep)]

    def step(self, work: list[SeededBatch], *, number: int, lr: float) -> Pending:
        """Take step `number` on this rank's `work`, together with the other ranks.

        The loss is the sum over all batches divided by all their units.  A batch whose loss is not finite is left out, and
        logged when the result is read.  If none remains, or the gradient is not finite, the weights do not change.
        """
        sums, losses, ids, seconds = self._backward(work, number)
        if self.summing:
            self.summing.flush()
        sums = sum_over_processes(torch.cat([sums, sums.new_full((1,), seconds)]))
        norm = self._update(sums[len(self.names)], number, lr)
        self.optimizer.zero_grad(set_to_none=True)
        return Pending(number, self.names, torch.cat([sums, norm.double()[None], *losses]), ids)

    def _update(self, units: Tensor, number: int, lr: float) -> Tensor:
        """Divide the summed gradients by `units`, clip, update the weights; return the norm before clipping."""
        if self.summing:
            self.summing.finish()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients:
            # FSDP has taken the mean over ranks.  Its tensors do not mix with others, so the CPU reads the units.
            divisor = float(units) / self.ranks.size or math.nan if self.sharded else units.to(gradients[0].dtype)
            torch._foreach_div_(gradients, divisor)  # pyright: ignore[reportPrivateImportUsage]
        norm = gathered(nn.utils.clip_grad_norm_(self.parameters, self.config.optim.clip or math.inf)).to(units.device)
        if self.sharded and not math.isfinite(norm):
            return norm
        set_learning_rate(self.optimizer, lr)
        # As torch's GradScaler does: the fused update leaves weights and moments alone where this is 1.  No units: 0 / 0.
        if not self.sharded:
            setattr(self.optimizer, "found_inf", (~norm.isfinite()).float())  # noqa: B010  (unknown to type checkers)
        self.optimizer.step()
        if self._after and math.isfinite(norm):  # for them alone the CPU waits
            for module in self._after:
                module.after_step()
        if self.average:
            self.average.update(self.objective, number)
        return norm

    def _backward(
        self, work: list[SeededBatch], number: int
    ) -> tuple[Tensor, list[Tensor], list[Sequence[str]], float]:
        """Compute the gradient of the summed loss in .grad.

        Return sums (those of `names`, then units and the number of batches not finite), losses and ids of the utterances
        of each batch, and seconds of audio.

        A batch that is out of memory is split in two, and the whole step restarts, because the failed backward may have
        left a partial gradient.  An utterance that does not fit alone is logged and left out.
        """
        pending = [w for w in work if self._everywhere(len(w.batch.ids) > 0)]
        if self.low:
            self.low.refresh()
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            for module in self._before:
                module.before_step()
            sums = torch.zeros(len(self.names) + 2, dtype=torch.float64, device=self.ranks.device)
            losses, ids, samples = [], [], 0
            alone = len(pending) == 1 and self.ranks.size == 1  # if its loss is not finite, the whole step is not taken
            kept = None if alone or self.sharded else GradientSum(self.parameters)
            for i, w in enumerate(pending):
                last = i == len(pending) - 1
                found = self._forward_backward(w, number, kept if last else None)
                if found == "out of memory" and self.sharded:
                    raise UserError(
                        f"out of memory: with train.shard=true lower data.batch_seconds={self.config.data.batch_seconds:g}"
                    )
                if found == "out of memory":  # handled here, where the exception no longer holds the graph's tensors
                    pending[i : i + 1] = self._halves(w, number)
                    break
                of_batch, loss = found
                sums = sums + of_batch
                losses.append(loss)
                ids.append(w.batch.ids)
                samples += int(w.batch.lengths.sum())
                if kept is not None:
                    kept.take(unless=of_batch[-1])
            else:
                if kept is not None:
                    kept.give_back()
                return sums, losses, ids, samples / self.config.model.features.sample_rate

    def _forward_backward(
        self, work: SeededBatch, number: int, before: GradientSum | None
    ) -> tuple[Tensor, Tensor] | Literal["out of memory"]:
        """Run forward and backward; return the sums of the batch, zeros and a 1 if its loss is not finite, and its losses.

        before: only of the last batch of a step, whose backward pass sends the gradients: those of the batches before it.
        """
        seed = derive_seed("block", self.config.train.seed, number)  # all batches of a step have one block size
        block = WHOLE if work.easy else self.objective.draw_block(random.Random(seed))
        generator = torch.Generator().manual_seed(derive_seed("masks", work.seed))
        torch.manual_seed(work.seed)  # dropout
        batch = work.batch.to(self.ranks.device)
        try:
            low = self.low.on() if self.low else contextlib.nullcontext()
            with autocast(self.ranks.device, self.dtype), low, Dropout.off(self.objective, work.easy):
                outcome = self.objective(batch, block=block, augment=not work.easy, generator=generator)
            columns = torch.stack(self._columns(outcome)).detach().double()  # (names and units, b)
            sums = columns.sum(1)
            bad = ~sums[:1].isfinite()
            if self.sharded and not self._everywhere(not bool(bad)):
                return torch.cat([torch.zeros_like(sums), bad]), columns[0]
            if self.summing or self.sharded:  # their hooks are called where a gradient is added to .grad
                sending = self.summing.last_pass(before, bad) if self.summing and before else contextlib.nullcontext()
                with sending:
                    outcome.loss.sum().backward()
            else:  # .backward() would add a view of every gradient to make it .grad: an operation for each parameter
                found = torch.autograd.grad(outcome.loss.sum(), self.parameters, allow_unused=True)
                for p, gradient in zip(self.parameters, found, strict=True):  # some come transposed
                    p.grad = None if gradient is None else gradient.contiguous()
        except torch.OutOfMemoryError:
            return "out of memory"
        return torch.cat([torch.where(bad, 0.0, sums), bad]), columns[0]

    def _everywhere(self, ok: bool) -> bool:
        """Return `ok`; of a sharded model, whether it is true on all ranks, which compute each batch together."""
        return self.ranks.sum([float(ok)])[0] == self.ranks.size if self.sharded else ok

    def _columns(self, outcome: Outcome) -> list[Tensor]:
        """Return the loss, the parts in the order of `names` (zeros for missing ones), and the units."""
        zeros = torch.zeros_like(outcome.loss)
        parts = [outcome.parts.get(name, zeros) for name in self.names[1:]]
        return [outcome.loss, *parts, outcome.units.to(outcome.loss.dtype)]

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
