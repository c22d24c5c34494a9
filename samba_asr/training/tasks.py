"""What the one trainer can be asked to do: speech to text, by utterances; speech alone, for an encoder to begin with; text alone,
for a language model.

A task makes the model and its batches and says how good the model is.  The trainer knows no more of it than `Task`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from samba_asr.audio.features import Statistics
from samba_asr.config import Config
from samba_asr.data.bucketing import derive_seed
from samba_asr.data.dataset import Epoch, TrainingSet, evaluation_batches
from samba_asr.data.manifest import Utterance
from samba_asr.data.text import TextEpoch, TextSet
from samba_asr.errors import UserError
from samba_asr.models.crf import trigram
from samba_asr.text.tokenizer import Tokenizer
from samba_asr.training.distributed import Ranks
from samba_asr.training.evaluate import autocast, validate

logger = logging.getLogger(__name__)

STATISTICS = 200  # utterances that CMVN statistics are taken from


class Data(Protocol):
    left_out: Counter[str]  # how many, by reason
    fingerprint: int  # changes with the data: a resumed run must find its batches again

    def epoch(self, epoch: int, *, ranks: int = 1) -> Epoch | TextEpoch:
        """The batches of an epoch, by number."""
        ...


class Task(Protocol):
    data: Data
    metric: str  # what `validate` returns
    unit: str  # and in what

    def describe(self) -> str:
        """What there is to train on and to validate on."""
        ...

    def new_model(self) -> nn.Module: ...

    def begin(self, model: nn.Module, device: torch.device, new: bool) -> None:
        """Before a run's first step, a resumed one's too; `new`: the model has never learned anything."""
        ...

    def validate(
        self, model: nn.Module, ranks: Ranks, dtype: torch.dtype, check: Callable[[], None], where: str
    ) -> dict[str, float] | None:
        """Numbers by name, the metric's first; None without validation data.  Logs them, and calls `check` between batches."""
        ...


class SpeechTask:
    """Utterances; validated by greedy WER, or where texts compete (`loss.crf`) by the CTC-CRF loss.

    CTC-CRF makes a model that a search with a language model reads: its greedy WER and CTC loss rise while the WER with one
    falls, and fall while it rises.  The CTC-CRF loss goes with it (egs/mini_librispeech/RESULTS.md, runs H and I).
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        train: Sequence[Utterance],
        valid: Sequence[Utterance],
        noise: Sequence[Utterance] = (),
    ):
        twice = [i for i, n in Counter(u.id for u in valid).items() if n > 1]
        if twice:
            raise UserError(
                f"data.valid: {len(twice)} ids occur more than once, such as {twice[0]!r}: make them unique"
            )
        self.config, self.tokenizer, self.valid = config, tokenizer, list(valid)
        self.metric, self.unit = ("CTC-CRF loss", " nats a token") if config.loss.crf > 0 else ("WER", " %")
        self.data = TrainingSet(train, tokenizer, config, noise)

    def describe(self) -> str:
        hours = self.data.seconds.sum() / 3600
        return f"{len(self.data.utterances)} utterances ({hours:.2f} h) to train on, {len(self.valid)} to validate on"

    def new_model(self) -> nn.Module:
        from samba_asr.models.asr import AsrModel

        return AsrModel(self.config.model)

    def begin(self, model: nn.Module, device: torch.device, new: bool) -> None:
        if new:
            set_statistics(model, self.data, device)
        if self.config.loss.crf > 0:
            model.trigram = trigram(self.data.tokens, self.config.model.vocab_size)

    def validate(self, model, ranks, dtype, check, where):
        if not self.valid:
            return None
        began = time.monotonic()
        result = validate(
            model,
            self.tokenizer,
            self.valid[ranks.rank :: ranks.size],
            block=self.config.decode.block,
            batch_seconds=self.config.data.batch_seconds,
            dtype=dtype,
            store=self.data.store,
            gather=ranks.gather,
            check=check,
        )
        for utterance in self.valid[: self.config.train.examples]:
            logger.info("ref %s: %s", utterance.id, utterance.text)
            logger.info("hyp %s: %s", utterance.id, result.texts.get(utterance.id, "(not readable)"))
        compete = f", CTC-CRF loss {result.crf:.4f}" if result.crf is not None else ""
        logger.info(
            "%s: validation WER %.2f %%, CTC loss %.4f a token%s (%.0f s)",
            where,
            result.wer,
            result.loss,
            compete,
            time.monotonic() - began,
        )
        scores = {"wer": result.wer, "ctc": result.loss}
        return scores if result.crf is None else {"crf": result.crf, **scores}


def set_statistics(model: nn.Module, data: TrainingSet, device: torch.device) -> None:
    """Global CMVN: mean and standard deviation of each mel over some training utterances, unaugmented."""
    rng = np.random.default_rng(derive_seed("statistics", data.config.train.seed))
    chosen = rng.permutation(len(data.utterances))[:STATISTICS]
    sample = [data.utterances[i] for i in chosen]
    statistics = Statistics(data.config.model.features.mels)
    with torch.no_grad():
        for batch in evaluation_batches(sample, None, data.store, batch_seconds=data.config.data.batch_seconds):
            audio, lengths = batch.audio.to(device), batch.lengths.to(device)
            statistics.add(*model.features(audio.unsqueeze(-1), lengths))
    model.features.set_statistics(*statistics.result())


class PretrainTask:
    """Utterances without their texts; validated by the share of hidden frames whose code is not guessed."""

    metric, unit = "error", " % of hidden frames"

    def __init__(
        self, config: Config, train: Sequence[Utterance], valid: Sequence[Utterance], noise: Sequence[Utterance] = ()
    ):
        self.config, self.valid = config, list(valid)
        self.data = TrainingSet(train, None, config, noise)

    def describe(self) -> str:
        hours = self.data.seconds.sum() / 3600
        return f"{len(self.data.utterances)} utterances ({hours:.2f} h) to hear, {len(self.valid)} to validate on"

    def new_model(self) -> nn.Module:
        from samba_asr.models.pretrain import Pretraining

        return Pretraining(self.config.model, self.config.pretrain)

    def begin(self, model: nn.Module, device: torch.device, new: bool) -> None:
        if new:
            set_statistics(model, self.data, device)

    def validate(self, model, ranks, dtype, check, where):
        if not self.valid:
            return None
        began, training = time.monotonic(), model.training
        nats, wrong, hidden = 0.0, 0, 0
        some, seconds = self.valid[ranks.rank :: ranks.size], self.config.data.batch_seconds
        same = torch.Generator().manual_seed(0)  # frames are hidden every time
        model.eval()
        try:
            for batch in evaluation_batches(some, None, self.data.store, batch_seconds=seconds):
                check()
                if not batch.ids:
                    continue
                audio, lengths = batch.audio.to(ranks.device), batch.lengths.to(ranks.device)
                with torch.inference_mode(), autocast(ranks.device, dtype):
                    _, logits, truth = model.guess(audio, lengths, block=self.config.decode.block, generator=same)
                nats += float(F.cross_entropy(logits.float(), truth, reduction="sum"))
                wrong, hidden = wrong + int((logits.argmax(-1) != truth).sum()), hidden + len(truth)
        finally:
            model.train(training)
        nats, wrong, hidden = (sum(some) for some in zip(*ranks.gather((nats, wrong, hidden)), strict=True))
        error, nats = 100 * wrong / max(hidden, 1), nats / max(hidden, 1)
        logger.info(
            "%s: %.2f %% of the hidden frames not guessed, %.4f nats a frame (%.0f s)",
            where,
            error,
            nats,
            time.monotonic() - began,
        )
        return {"error": error, "nats": nats}


class TextTask:
    """Lines of text; validated by perplexity a word."""

    metric, unit = "perplexity", " a word"

    def __init__(self, config: Config, tokenizer: Tokenizer, train: TextSet, valid: Sequence[str]):
        self.config, self.data = config, train
        self.words = sum(len(line.split()) + 1 for line in valid)  # and the end, as n-gram models count
        self.valid = TextSet(valid, tokenizer, config) if valid else None

    def describe(self) -> str:
        lines = len(self.valid) if self.valid else 0
        return f"{len(self.data)} lines ({self.data.tokens / 1e6:.1f} M units) to train on, {lines} to validate on"

    def new_model(self) -> nn.Module:
        from samba_asr.models.lm import MambaLm

        return MambaLm(self.config.lm, self.config.model.vocab_size)

    def begin(self, model: nn.Module, device: torch.device, new: bool) -> None:
        pass

    def validate(self, model, ranks, dtype, check, where):
        if self.valid is None:
            return None
        began, training, total = time.monotonic(), model.training, 0.0
        model.eval()
        try:
            for batch in self.valid.in_order(ranks.rank, ranks.size):
                check()
                batch = batch.to(ranks.device)
                with torch.inference_mode(), autocast(ranks.device, dtype):
                    total += float(model.loss(batch.tokens, batch.token_lengths).double().sum())
        finally:
            model.train(training)
        total = sum(ranks.gather(total))
        perplexity = math.exp(min(total / max(self.words, 1), 50.0))
        loss = total / max(self.valid.tokens, 1)
        logger.info(
            "%s: perplexity %.1f a word, %.4f nats a unit (%.0f s)", where, perplexity, loss, time.monotonic() - began
        )
        return {"perplexity": perplexity, "nats": loss}
