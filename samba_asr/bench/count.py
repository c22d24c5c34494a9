"""Operations of a training step on a GPU, counted without one (samba_asr.bench.pretend)."""

from __future__ import annotations

import dataclasses
import os
from typing import Any
from unittest import mock

import numpy as np

from samba_asr import config as configs
from samba_asr.bench.measure import answer
from samba_asr.config import Config

UTTERANCES = (2.0, 1.6)  # seconds: the scans' loops over chunks and CTC-CRF's over frames grow with the first
UNITS = {"bpe": None, "char": 30, "phone": 60}  # None: tokenizer.vocab_size
RATE = 5  # units a second
MOST = 12  # names in the list


def main(files: list[str], overrides: list[str], kernels: str) -> dict[str, Any]:
    """Count the second step.  kernels: `triton`, as a GPU uses them, each counted as one operation, or `none`."""
    from samba_asr.ops.device import KERNELS

    config = configs.load(files, overrides)
    with mock.patch.dict(os.environ, {KERNELS: kernels}):
        return {"kernels": kernels, "losses": "CTC-CRF" if config.loss.crf else "CTC", **count(config)}


def count(config: Config, steps: int = 2) -> dict[str, Any]:
    """Take `steps` steps on noise on a pretended GPU, and count the last; numbers by what `Pretend` calls them."""
    import torch

    from samba_asr.bench.pretend import DEVICE, Pretend, move
    from samba_asr.data.dataset import collate
    from samba_asr.models.asr import AsrModel
    from samba_asr.training.distributed import Ranks
    from samba_asr.training.objectives import objectives
    from samba_asr.training.objectives.crf import trigram
    from samba_asr.training.optim import MovingAverage
    from samba_asr.training.step import SeededBatch, Stepper

    v = UNITS[config.tokenizer.kind] or config.tokenizer.vocab_size
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=v, full_block=0.0))
    rng, rate = np.random.default_rng(1), config.model.features.sample_rate
    samples = [rng.normal(scale=0.1, size=int(seconds * rate)).astype(np.float32) for seconds in UTTERANCES]
    texts = [rng.integers(1, v, size=int(seconds * RATE)).tolist() for seconds in UTTERANCES]
    batch = collate(samples, texts, [f"u{i}" for i in range(len(samples))], few_sizes=True)

    torch.manual_seed(config.train.seed)
    table = trigram(texts, v) if config.loss.crf > 0 else None
    objective = objectives.build("speech", AsrModel(config.model), config, trigram=table)
    move(objective.train())
    stepper = Stepper(objective, config, Ranks(DEVICE))
    if config.train.ema:
        stepper.average = MovingAverage(objective, config.train.ema)
    for number in range(1, steps + 1):
        pretend = Pretend()
        # The optimizer asks the accelerator whether it captures a graph: a build for CUDA would look for a driver.
        with pretend, mock.patch.object(torch.accelerator, "current_accelerator", return_value=None):
            stepper.step([SeededBatch(batch, number)], number=number, lr=1e-4)
    return {
        "operations": pretend.total,
        "views": pretend.views,
        "launches": pretend.launches,
        "triton": pretend.triton,
        "waits": dict(pretend.waits),
        "host": pretend.host,
        "most": dict(pretend.operations.most_common(MOST)),
    }


if __name__ == "__main__":
    answer(main)
