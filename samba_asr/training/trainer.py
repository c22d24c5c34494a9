"""The train loop.

Every random choice of a step (its batches, masks, dropout, block size) is seeded by (seed, epoch, batch).  So a killed and
resumed run takes exactly the steps of an uninterrupted one, and several ranks take the steps of one process that accumulates
the same batches.  There is no random state to save.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from samba_asr import config as configs
from samba_asr.config import Config
from samba_asr.data.bucketing import derive_seed
from samba_asr.data.dataset import Batch, load_batches
from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import Tokenizer
from samba_asr.training import checkpoint, distributed, parts
from samba_asr.training.distributed import Ranks
from samba_asr.training.lock import locked
from samba_asr.training.optim import MovingAverage, learning_rate
from samba_asr.training.progress import Signals, TrainingProgress, log_file
from samba_asr.training.score import Score
from samba_asr.training.sharding import Sharding, gathered, is_sharded, placed, placed_optimizer
from samba_asr.training.step import Pending, SeededBatch, Stepper
from samba_asr.training.tasks import SpeechTask, Task
from samba_asr.training.tracking import Tracking

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 20  # in a row, before training gives up


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of a run.  best: score of the best checkpoint, None without validation.  signal: its number if one ended the run."""

    best: Score | None
    steps: int
    folder: Path
    signal: int = 0


class Interrupted(Exception):
    """Raised to end the run after a signal, when the state is saved."""


def train(
    config: Config,
    folder: Path,
    *,
    tokenizer: Tokenizer,
    train: Sequence[Utterance],
    valid: Sequence[Utterance],
    noise: Sequence[Utterance] = (),
    model: nn.Module | None = None,
) -> TrainResult:
    """Train in `folder`, or continue the run in it.

    model: the net to train; default: a new AsrModel(config.model).  On SIGINT or SIGTERM the state is saved, and the result
    is returned with `signal` set.  UserError if `folder` holds a run with another configuration or other data.
    """
    return run(
        config,
        folder,
        tokenizer,
        lambda config: SpeechTask(config, tokenizer, train, valid, noise, folder),
        model=model,
    )


def run(
    config: Config,
    folder: Path,
    tokenizer: Tokenizer | None,
    task: Callable[[Config], Task],
    model: nn.Module | None = None,
) -> TrainResult:
    """Train as in `train`, for any task.  task: makes the task from the configuration, which has the tokenizer's size."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    ranks = distributed.start(config.train.device)
    if ranks.rank == 0:
        log, lock = log_file(folder / "log.txt", logging.INFO), locked(folder)
    else:
        log, lock = log_file(folder / f"log-{ranks.rank}.txt", logging.WARNING), contextlib.nullcontext()
    try:
        with lock, log, Signals() as signals:
            result = Trainer(config, folder, tokenizer, task(config), model, ranks, signals).run()
            ranks.barrier()  # a rank that leaves early can abort another that still communicates (seen with gloo)
            return result
    finally:
        distributed.stop(ranks)


class Trainer:
    """The state of a run, and its loop.  Start it with `train`."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        tokenizer: Tokenizer | None,
        task: Task,
        model: nn.Module | None,
        ranks: Ranks,
        signals: Signals,
    ):
        self.config, self.folder, self.tokenizer = config, folder, tokenizer
        self.task, self.data, self.ranks, self.signals = task, task.data, ranks, signals
        self._new_model = model is None
        if model is None:
            torch.manual_seed(derive_seed("model", config.train.seed))
            model = task.new_net()
        self.objective = task.objective(model).to(ranks.device)
        shard = config.train.shard and ranks.size > 1
        self.sharding = Sharding(self.objective, ranks) if shard else None
        self.stepper = Stepper(self.objective, config, ranks, sharded=shard)
        self.epoch, self.batch, self.step = 1, 0, 0  # batch: number of batches done in the epoch, over all ranks
        self.elapsed = 0.0  # seconds, of this run and the runs that it continues
        self.bad_steps = 0  # in a row
        self._epoch_steps = 0  # of this epoch, in this process
        self.kept: list[checkpoint.Kept] = []
        self._place = ""  # the folder with the tensors of last.pt, of a sharded run
        self._open: tuple[Pending, tuple[int, str, float, float]] | None = None  # the last step, not yet reported
        self.fraction = 0.0  # of the epoch that is done
        self._signaled = 0.0  # sum over ranks of the signals received when the step began

    # ---- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        self._begin()
        tracking = None
        if self.ranks.rank == 0:
            settings = checkpoint.flat(checkpoint.config_dict(self.config))
            tracking = Tracking(self.config.train.tracker, self.folder, self.step, settings)
        self.progress = TrainingProgress(self.config.train.log_every, tracking)
        self._clock = time.monotonic() - self.elapsed
        self._saved = self.elapsed
        ended_by = 0
        try:
            while not self._finished():
                self._run_epoch()
                self._end_epoch()
        except Interrupted:
            ended_by = self.signals.received or signal.SIGTERM  # 0: another rank received it
        finally:
            self.progress.close()
        ranked = checkpoint.rank(self.kept)
        best = ranked[0].score if ranked else None
        if ended_by:
            logger.info("stopped by a signal after step %d; the same command continues", self.step)
        else:
            logger.info("done: %d steps%s", self.step, f", best validation {best}" if best and self.step else "")
        return TrainResult(best, self.step, self.folder, ended_by)

    def _begin(self) -> None:
        """Resume from last.pt, or start a new run; log the task and the device."""
        state = checkpoint.load_last(self.folder, self.ranks)
        if state is not None:
            self._restore(state)
        else:
            if any(self.folder.glob("epoch-*.pt")):
                raise UserError(f"{self.folder}: has epoch-*.pt but no {checkpoint.LAST}: train in another folder")
        self.task.begin(self.objective, self.ranks.device, new=self._new_model and state is None)
        self.ranks.broadcast(v for v in self.objective.state_dict().values() if not is_sharded(v))
        if self.stepper.average is None and self.config.train.ema > 0:
            self.stepper.average = MovingAverage(self.objective, self.config.train.ema)
        if self.ranks.rank == 0:
            configs.save(self.config, self.folder / "config.yaml")
            if self.tokenizer is not None:
                self.tokenizer.save(self.folder)
        logger.info(
            "%s; %.2f M parameters; %s, %s, %d process%s",
            self.task.describe(),
            sum(p.numel() for p in self.objective.parameters()) / 1e6,
            self.ranks.device,
            str(self.stepper.dtype).removeprefix("torch."),
            self.ranks.size,
            "" if self.ranks.size == 1 else "es",
        )
        for reason, count in self.data.left_out.items():
            logger.info("left out: %d %s", count, reason)
        if state is not None:
            logger.info("resuming at epoch %d, batch %d, step %d", self.epoch, self.batch, self.step)

    def _finished(self) -> bool:
        # If time runs out within an epoch, the epoch must still be validated.
        return self.epoch > self.config.train.epochs or (self._out_of_time() and self.batch == 0)

    def _out_of_time(self) -> bool:
        limits = self.config.train
        return 0 < limits.max_steps <= self.step or 0 < limits.max_minutes * 60 <= self.elapsed

    def _done(self) -> float:
        """Return the share of the run that is done, 0 to 1, by the limit that comes first."""
        limits = self.config.train
        shares = [(self.epoch - 1 + self.fraction) / max(limits.epochs, 1)]
        if limits.max_steps > 0:
            shares.append(self.step / limits.max_steps)
        if limits.max_minutes > 0:
            shares.append(self.elapsed / (limits.max_minutes * 60))
        return min(max(shares), 1.0)

    def _run_epoch(self) -> None:
        epoch = self.data.epoch(self.epoch, ranks=self.ranks.size)
        self._epoch_steps = 0
        first = self.batch - self.batch % self.ranks.size
        positions = range(first + self.ranks.rank, len(epoch), self.ranks.size)
        batches = load_batches(epoch, positions, self.config.data.workers)
        numbered = zip(positions, batches, strict=False)
        self.fraction = self.batch / len(epoch)
        self.progress.restart()
        try:
            for work in _groups(numbered, self.config.optim.accumulate):
                if self._out_of_time():
                    break
                self._step(work)
                self.batch = min(self.batch + len(work) * self.ranks.size, len(epoch))
                self.fraction = self.batch / len(epoch)
                if self._must_stop():
                    self._save(needed=True)
                    raise Interrupted
                if self.elapsed - self._saved > self.config.train.save_minutes * 60:
                    self._save()
            self._settle()
        finally:
            batches.close()

    def _end_epoch(self) -> None:
        """Validate, keep the weights, and go to the next epoch.  If it is killed before the end, a resumed run repeats it."""
        limits = self.config.train
        last = self.epoch >= limits.epochs or self._out_of_time()
        if last and 0 < self._epoch_steps <= self.bad_steps:  # a short run ends before MAX_BAD_STEPS
            raise UserError(self._hopeless(f"no step of epoch {self.epoch}, the last one, was finite"))
        self._save()
        if self.stepper.average:
            self.stepper.average.swap(self.objective)
        try:
            score = None
            if last or self.epoch % max(limits.valid_every, 1) == 0:
                with self.sharding.whole() if self.sharding else contextlib.nullcontext():
                    score = self._validate()
            self._keep(score)
        finally:
            if self.stepper.average:
                self.stepper.average.swap(self.objective)
        self.epoch, self.batch, self.fraction = self.epoch + 1, 0, 0.0
        self._save(needed=self._finished())
        if self.ranks.rank == 0:
            names = {k.file for k in self.kept}
            for path in self.folder.glob("epoch-*.pt"):
                if path.name not in names:
                    path.unlink()

    def _step(self, group: list[tuple[int, Batch]]) -> None:
        """Take one step on [(number of the batch in the epoch, batch)], and report the one before."""
        self.step += 1
        elapsed = (
            time.monotonic() - self._clock if self.ranks.rank == 0 else 0.0
        )  # the first rank's: all must agree on the time
        self.elapsed, self._signaled = self.ranks.sum([elapsed, self.signals.received])
        lr = learning_rate(self.config.optim, self.step, self._done())
        seeds = (derive_seed("batch", self.config.train.seed, self.epoch, number) for number, _ in group)
        easy = self.epoch <= self.config.train.easy_epochs
        work = [SeededBatch(batch, seed, easy) for (_, batch), seed in zip(group, seeds, strict=True)]
        limits = self.config.train  # with a limit of time or steps, the number of epochs means nothing
        of = "" if limits.max_minutes or limits.max_steps else f"/{limits.epochs}"
        pending = self.stepper.step(work, number=self.step, lr=lr)
        self._settle()  # the step before, while the device works on this one
        self._open = pending, (self.step, f"epoch {self.epoch}{of}", lr, self._done())
        self._epoch_steps += 1

    def _settle(self) -> None:
        """Read the losses of the last step, if nobody has, and report them; UserError after too many bad steps."""
        if self._open is None:
            return
        (pending, where), self._open = self._open, None
        outcome = pending.result()
        if outcome.units > 0 and math.isfinite(outcome.norm):
            self.bad_steps = 0  # some of it was learned
        elif outcome.bad:
            self.bad_steps += 1
        if self.bad_steps >= MAX_BAD_STEPS:
            raise UserError(self._hopeless(f"{MAX_BAD_STEPS} steps in a row were not finite"))
        if self.ranks.rank == 0:
            self.progress.step(*where, outcome)

    def _hopeless(self, what: str) -> str:
        return (
            f"{what} ({self.folder / 'log.txt'} names the utterances): lower optim.lr={self.config.optim.lr}, raise "
            "optim.warmup, or try train.dtype=float32; then train in another folder"
        )

    # ---- signals -----------------------------------------------------------------------------------------------------

    def _validate(self) -> Score | None:
        where = f"epoch {self.epoch} step {self.step}"
        found = self.task.validate(self.objective, self.ranks, self.stepper.dtype, self._check_signal, where)
        if found is None:
            return None
        self.progress.track({f"valid/{name}": value for name, value in found.values.items()}, self.step)
        return found.score

    def _must_stop(self) -> bool:
        # With several ranks, use the sum from the step: a rank must not stop alone, because the others would wait for it.
        return bool(self.signals.received if self.ranks.size == 1 else self._signaled)

    def _check_signal(self) -> None:
        if self._must_stop():
            raise Interrupted

    # ---- files -------------------------------------------------------------------------------------------------------

    def _keep(self, score: Score | None) -> None:
        """Write epoch-NNN.pt and note which are among the best or the last."""
        name = f"epoch-{self.epoch:03}.pt"
        kept = [k for k in self.kept if k.epoch != self.epoch] + [checkpoint.Kept(name, self.epoch, score)]
        kept = checkpoint.keep(kept, self.config.train.keep_best, self.config.train.keep_last)
        state = self.objective.state_dict()
        weights = self.objective.net_weights(gathered(state) if self.sharding else state)
        if self.ranks.rank:
            self.kept = kept
            return
        weights = {k: v.detach().cpu() for k, v in weights.items()}
        content = {"config": checkpoint.config_dict(self.config), "model": weights}
        content |= {"epoch": self.epoch, "step": self.step, "score": checkpoint.plain_score(score)}
        try:
            checkpoint.save(self.folder / name, content)
            self.kept = kept
        except OSError as error:
            logger.warning("%s cannot be written (%s): this epoch is not kept", name, error.strerror or error)

    def _save(self, needed: bool = False) -> None:
        """Write last.pt.  Where that fails training goes on, and the next save tries again.

        needed: it is the last save; UserError if it fails.
        """
        self._settle()
        self._saved = self.elapsed
        if self.ranks.rank and not self.sharding:
            return
        content = {
            "config": checkpoint.config_dict(self.config),
            "data": self.data.fingerprint,
            "objective": self.objective.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "ema": self.stepper.average.weights if self.stepper.average else None,
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "elapsed": self.elapsed,
            "bad_steps": self.bad_steps,
            "kept": [k.plain() for k in self.kept],
        }
        try:
            content = parts.save(self.folder, content, self.ranks) if self.sharding else content
            if self.ranks.rank == 0:
                checkpoint.save(self.folder / checkpoint.LAST, content, before=self.folder / checkpoint.BEFORE)
                parts.clean(self.folder, {parts.name(content), self._place})
                self._place = parts.name(content)
        except OSError as error:
            why = f"{self.folder / checkpoint.LAST} cannot be written ({error.strerror or error})"
            if needed:
                raise UserError(f"{why}: make room, and the same command continues from the save before") from None
            logger.warning("%s: training goes on and tries again at the next save; make room", why)

    def _restore(self, state: dict) -> None:
        checkpoint.check_same_config(state["config"], self.config, self.folder)
        if state["data"] != self.data.fingerprint:
            raise UserError(f"{self.folder}: this run started with other training data: train in another folder")
        self._place = parts.name(state)
        state = parts.load(self.folder, state, self.objective, self.stepper.optimizer)
        self.objective.load_state_dict(placed(state["objective"], self.objective.state_dict()))
        self.stepper.optimizer.load_state_dict(placed_optimizer(state["optimizer"], self.stepper.optimizer))
        if state["ema"] is not None:
            self.stepper.average = MovingAverage(self.objective, self.config.train.ema)
            weights = placed(state["ema"], self.stepper.average.weights)
            self.stepper.average.weights = {k: v.to(self.ranks.device) for k, v in weights.items()}
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.elapsed, self.bad_steps = state["elapsed"], state["bad_steps"]
        self.kept = [checkpoint.Kept.of(kept) for kept in state["kept"]]


def _groups(items: Iterator, n: int) -> Iterator[list]:
    """Yield lists of n successive items; the last may be shorter."""
    while group := list(islice(items, max(n, 1))):
        yield group
