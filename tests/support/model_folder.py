"""Model folders of the real model at its smallest, untrained, and settings of that size."""

from __future__ import annotations

import dataclasses

import torch

from samba_asr.config import load
from samba_asr.models.asr import AsrModel
from samba_asr.models.folder import save_model
from tests.contract import awake
from tests.training.toy import TOKENIZER

SMALL = [
    "model.d_model=16",
    "model.layers=1",
    "model.subsampling_channels=4",
    "model.mixer.d_state=4",
    "model.mixer.headdim=8",
    "model.decoder.d_model=16",
    "model.decoder.d_state=4",
    "model.decoder.headdim=8",
    "tokenizer.kind=char",
    "data.batch_seconds=4",
]

SMALL_TRAINING = [
    "model.d_model=16",
    "model.layers=1",
    "model.subsampling_channels=4",
    "model.mixer.d_state=4",
    "model.mixer.headdim=8",
    "tokenizer.kind=char",
    "data.batch_seconds=4",
    "train.epochs=2",
    "train.log_every=1",
    "train.device=cpu",
    "optim.warmup=2",
]


def make_model(folder, *overrides, seed=5):
    torch.manual_seed(seed)
    config = load([], [*SMALL, *overrides])
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=TOKENIZER.vocab_size))
    model = awake(AsrModel(config.model))
    with torch.no_grad():
        model.ctc.linear.weight.mul_(8)  # surer of itself, and not silent
    save_model(folder, model, config, TOKENIZER)
    return folder
