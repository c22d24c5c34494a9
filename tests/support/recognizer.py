"""A recognizer that was never trained and talks a lot."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from samba_asr.config import Config, ModelConfig, TokenizerConfig
from samba_asr.models.asr import AsrModel
from samba_asr.models.folder import LoadedModel
from samba_asr.recognizer import Recognizer
from samba_asr.text.tokenizer import train_tokenizer
from tests.contract import awake


def talkative(folder: Path) -> Recognizer:
    """A recognizer with random weights that talks a lot: the blank is made unlikely.  folder: for its tokenizer."""
    tokenizer = train_tokenizer(["A BAD CAB", "DAB"], "char", None, folder)
    torch.manual_seed(0)
    config = Config(
        model=ModelConfig(d_model=32, layers=2, subsampling_channels=4, max_block=50, vocab_size=tokenizer.vocab_size),
        tokenizer=TokenizerConfig(kind="char"),
    )
    model = awake(AsrModel(config.model)).eval()
    with torch.no_grad():
        model.features.set_statistics(torch.full((80,), -9.0), torch.full((80,), 2.0))
        model.ctc.linear.weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(3)
        model.ctc.linear.weight[0] = 0
        model.ctc.linear.bias[1] = -100  # <unk>, which no text can be aligned to
    return Recognizer(LoadedModel(model, tokenizer, config))


def with_pauses(recognizer: Recognizer) -> Recognizer:
    """The talkative recognizer with blank in four of five frames of noise, and as if its few letters were all of English."""
    model = copy.deepcopy(recognizer.model)
    with torch.no_grad():
        model.ctc.linear.bias[0] += 28
    found = Recognizer(LoadedModel(model, recognizer.tokenizer, recognizer.config))
    found.__dict__["_writes_english"] = True
    return found
