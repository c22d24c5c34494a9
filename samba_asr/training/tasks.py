"""Training tasks: speech to text, speech without texts (pretraining of an encoder), and text (language models).

A task makes the net, its objective and its batches, and validates the net.  The trainer uses only the interface `Task`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import nn

from samba_asr.audio.features import LogMel, Statistics
from samba_asr.config import Config
from samba_asr.data.bucketing import derive_seed
from samba_asr.data.dataset import Batches, TrainingSet, evaluation_batches
from samba_asr.data.manifest import Utterance
from samba_asr.data.text import TextSet
from samba_asr.data.unknown import unknown_words
from samba_asr.errors import UserError
from samba_asr.models.acoustic import AcousticModel
from samba_asr.models.asr import AsrModel
from samba_asr.models.lm import MambaLm
from samba_asr.runtime.base import latency_of
from samba_asr.text.tokenizer import Tokenizer
from samba_asr.training.distributed import Ranks
from samba_asr.training.evaluate import autocast, validate
from samba_asr.training.nbest import n_best
from samba_asr.training.objectives import Objective, Pretraining, objectives
from samba_asr.training.objectives.crf import trigram
from samba_asr.training.objectives.pretraining import new_encoder
from samba_asr.training.score import Score

logger = logging.getLogger(__name__)

STATISTICS = 200  # utterances for the CMVN statistics


def validation_block(config: Config) -> int:
    """Return the block size of validation, in encoder frames: that of `decode.runtime.latency_ms`."""
    ms, frame = config.decode.runtime.latency_ms, config.model.frame_ms / 1000
    return latency_of(ms, 0.0, frame, config.model.max_block).block


class Data(Protocol):
    """Training data of a task."""

    @property
    def left_out(self) -> Counter[str]:
        """Number of items left out, by reason."""
        ...

    @property
    def fingerprint(self) -> int:
        """Hash of the data: a resumed run must have the same batches."""
        ...

    def epoch(self, epoch: int, *, ranks: int = 1) -> Batches:
        """Return the batches of an epoch, by number."""
        ...


class Validated(NamedTuple):
    """Result of a validation: the score that ranks checkpoints, and all values by name, for the tracker."""

    score: Score
    values: dict[str, float]


class Task(Protocol):
    """Interface of a training task."""

    @property
    def data(self) -> Data:
        """The training data."""
        ...

    def describe(self) -> str:
        """Return the amounts of training and validation data as text."""
        ...

    def new_net(self) -> nn.Module: ...

    def objective(self, net: nn.Module) -> Objective:
        """Make the objective of `net`."""
        ...

    def begin(self, objective: Objective, device: torch.device, new: bool) -> None:
        """Prepare the first step of a new or resumed run.  new: the net is untrained."""
        ...

    def validate(
        self, objective: Objective, ranks: Ranks, dtype: torch.dtype, check: Callable[[], None], where: str
    ) -> Validated | None:
        """Measure and log; None without validation data.  Calls `check` between batches."""
        ...


class SpeechTask:
    """Task of utterances with texts.  Score: greedy WER, or with `loss.crf` the CTC-CRF loss.

    With `loss.mwer` it is the WER of the search of `decode.*`, with its language model.

    CTC-CRF trains for a search with a language model.  The greedy WER and the CTC loss may rise while the WER of that search
    falls, and fall while it rises.  The CTC-CRF loss agrees with it (egs/mini_librispeech/RESULTS.md, runs H and I).
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        train: Sequence[Utterance],
        valid: Sequence[Utterance],
        noise: Sequence[Utterance] = (),
        folder: Path | None = None,
    ):
        """folder: of the run, with the files of its search, for `loss.mwer`."""
        twice = [i for i, n in Counter(u.id for u in valid).items() if n > 1]
        if twice:
            raise UserError(
                f"data.valid: {len(twice)} ids occur more than once, such as {twice[0]!r}: make them unique"
            )
        self.config, self.tokenizer, self.valid = config, tokenizer, list(valid)
        self.data = TrainingSet(train, tokenizer, config, noise)
        self.read = n_best(config, tokenizer, folder) if config.loss.mwer > 0 else None
        self._check_validation()

    def _check_validation(self) -> None:
        """Log a warning if validation has no texts, or words that the tokenizer cannot encode."""
        unknown = unknown_words((u.text for u in self.valid), self.tokenizer)
        if not unknown.total:
            why = "their texts are empty" if self.valid else "there are none"
            logger.warning(
                "no utterances to validate on: %s (data.valid=%s), so no checkpoint is better than another",
                why,
                list(self.config.data.valid),
            )
        elif unknown.words:
            logger.warning(
                "the tokenizer cannot encode %s, %d of the %d words of the validation texts: they count as errors",
                unknown.names,
                unknown.words.total(),
                unknown.total,
            )

    def describe(self) -> str:
        hours = self.data.seconds.sum() / 3600
        return f"{len(self.data.utterances)} utterances ({hours:.2f} h) to train on, {len(self.valid)} to validate on"

    def new_net(self) -> AsrModel:
        return AsrModel(self.config.model)

    def objective(self, net: nn.Module) -> Objective:
        config = self.config
        table = trigram(self.data.tokens, config.model.vocab_size) if config.loss.crf > 0 else None
        return objectives.build("speech", net, config, trigram=table, read=self.read)

    def begin(self, objective: Objective, device: torch.device, new: bool) -> None:
        if new:
            set_statistics(cast("LogMel", objective.net.features), self.data, device)

    def validate(self, objective, ranks, dtype, check, where):
        if not self.valid:
            return None
        began = time.monotonic()
        result = validate(
            objective.net,
            self.tokenizer,
            self.valid[ranks.rank :: ranks.size],
            block=validation_block(self.config),
            batch_seconds=self.config.data.batch_seconds,
            dtype=dtype,
            crf=objective.crf,
            read=self.read,
            store=self.data.store,
            gather=ranks.gather,
            check=check,
        )
        unit = " in phones" if self.config.tokenizer.kind == "phone" and self.read is None else ""
        for utterance in self.valid[: self.config.train.examples]:
            logger.info("ref %s: %s", utterance.id, utterance.text)
            logger.info(f"hyp{unit} %s: %s", utterance.id, result.texts.get(utterance.id, "(not readable)"))
        compete = f", CTC-CRF loss {result.crf:.4f}" if result.crf is not None else ""
        logger.info(
            "%s: validation WER %.2f %%, CTC loss %.4f a token%s (%.0f s)",
            where,
            result.wer,
            result.loss,
            compete,
            time.monotonic() - began,
        )
        values = {"wer": result.wer, "ctc": result.loss}
        if result.crf is not None:
            values = {"crf": result.crf, **values}
        if self.read is None and result.crf is not None:
            return Validated(Score("CTC-CRF loss", result.crf, "nats a token"), values)
        return Validated(Score("WER", result.wer, "%"), values)


def set_statistics(front: LogMel, data: TrainingSet, device: torch.device) -> None:
    """Set the global CMVN: mean and standard deviation of each mel over some training utterances, not augmented."""
    rng = np.random.default_rng(derive_seed("statistics", data.config.train.seed))
    chosen = rng.permutation(len(data.utterances))[:STATISTICS]
    sample = [data.utterances[i] for i in chosen]
    statistics = Statistics(data.config.model.features.mels)
    with torch.no_grad():
        for batch in evaluation_batches(sample, None, data.store, batch_seconds=data.config.data.batch_seconds):
            audio, lengths = batch.audio.to(device), batch.lengths.to(device)
            statistics.add(*front(audio.unsqueeze(-1), lengths))
    front.set_statistics(*statistics.result())


class PretrainTask:
    """Task of utterances without texts, for an encoder, with the objective `pretrain.objective`."""

    def __init__(
        self, config: Config, train: Sequence[Utterance], valid: Sequence[Utterance], noise: Sequence[Utterance] = ()
    ):
        self.config, self.valid = config, list(valid)
        self.data = TrainingSet(train, None, config, noise)

    def describe(self) -> str:
        hours = self.data.seconds.sum() / 3600
        return f"{len(self.data.utterances)} utterances ({hours:.2f} h) to train on, {len(self.valid)} to validate on"

    def new_net(self) -> AcousticModel:
        return new_encoder(self.config.model)

    def objective(self, net: nn.Module) -> Objective:
        name = self.config.pretrain.objective
        if not issubclass(objectives[name], Pretraining):
            known = ", ".join(n for n in objectives if issubclass(objectives[n], Pretraining))
            raise UserError(
                f"pretrain.objective={name} is not an objective for speech without texts; there are: {known}"
            )
        return objectives.build(name, net, self.config)

    def begin(self, objective: Objective, device: torch.device, new: bool) -> None:
        if new:
            set_statistics(cast("LogMel", objective.net.features), self.data, device)

    def validate(self, objective, ranks, dtype, check, where):
        if not self.valid:
            return None
        began, training = time.monotonic(), objective.training
        sums: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        some, seconds = self.valid[ranks.rank :: ranks.size], self.config.data.batch_seconds
        same = torch.Generator().manual_seed(0)  # frames are masked every time
        objective.eval()
        try:
            for batch in evaluation_batches(some, None, self.data.store, batch_seconds=seconds):
                check()
                with torch.inference_mode(), autocast(ranks.device, dtype):
                    measured = objective.measure(
                        batch.to(ranks.device), block=validation_block(self.config), generator=same
                    )
                for name, (value, count) in measured.items():
                    sums[name] += value
                    counts[name] += count
        finally:
            objective.train(training)
        gathered = ranks.gather((sums, counts))
        names = dict.fromkeys(name for some, _ in gathered for name in some)
        if not names:
            return None  # nothing was readable, as the log says
        means = {k: sum(s[k] for s, _ in gathered) / max(sum(c[k] for _, c in gathered), 1) for k in names}
        logger.info("%s: %s (%.0f s)", where, objective.describe(means), time.monotonic() - began)
        return Validated(objective.score(means), means)


def nats(
    net: MambaLm, lines: TextSet, ranks: Ranks, dtype: torch.dtype, check: Callable[[], None] = lambda: None
) -> float:
    """Return -ln p of all lines, of all ranks; the net is on the ranks' device.  Calls `check` between batches."""
    training, total = net.training, 0.0
    net.eval()
    try:
        for batch in lines.in_order(ranks.rank, ranks.size):
            check()
            batch = batch.to(ranks.device)
            with torch.inference_mode(), autocast(ranks.device, dtype):
                total += float(net.loss(batch.tokens, batch.token_lengths).double().sum())
    finally:
        net.train(training)
    return sum(ranks.gather(total))


def words_and_ends(lines: Iterable[str]) -> int:
    """Return the number of words and of lines, whose ends count too, as in n-gram models."""
    return sum(len(line.split()) + 1 for line in lines)


def perplexity_of(nats: float, words: int) -> float:
    """Return the perplexity a word."""
    return math.exp(min(nats / max(words, 1), 50.0))


class TextTask:
    """Task of lines of text.  Score: perplexity per word."""

    def __init__(self, config: Config, tokenizer: Tokenizer, train: TextSet, valid: Sequence[str]):
        self.config, self.data = config, train
        self.words = words_and_ends(valid)
        self.valid = TextSet(valid, tokenizer, config) if valid else None

    def describe(self) -> str:
        lines = len(self.valid) if self.valid else 0
        return f"{len(self.data)} lines ({self.data.tokens / 1e6:.1f} M units) to train on, {lines} to validate on"

    def new_net(self) -> MambaLm:
        return MambaLm(self.config.lm, self.config.model.vocab_size)

    def objective(self, net: nn.Module) -> Objective:
        return objectives.build("language_model", net, self.config)

    def begin(self, objective: Objective, device: torch.device, new: bool) -> None:
        pass

    def validate(self, objective, ranks, dtype, check, where):
        if self.valid is None:
            return None
        began = time.monotonic()
        total = nats(objective.net, self.valid, ranks, dtype, check)
        perplexity = perplexity_of(total, self.words)
        loss = total / max(self.valid.tokens, 1)
        logger.info(
            "%s: perplexity %.1f a word, %.4f nats a unit (%.0f s)", where, perplexity, loss, time.monotonic() - began
        )
        return Validated(Score("perplexity", perplexity, "a word"), {"perplexity": perplexity, "nats": loss})
