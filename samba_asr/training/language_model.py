"""Training of a Mamba language model from text (`samba-asr lm mamba`).

config = config.load(["lm/small"], [*DEFAULTS, "lm.layers=2"])
result = train_language_model(config, [Path("text.txt.gz")], ["A LINE TO VALIDATE ON"], Path("exp/lm"))
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

from samba_asr import config as configs
from samba_asr.config import Config
from samba_asr.data.text import TextSet
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import save_lm
from samba_asr.models.pronouncer import load_pronouncer
from samba_asr.text.lm import read_lines
from samba_asr.text.tokenizer import has_tokenizer, load_tokenizer, train_tokenizer
from samba_asr.training import checkpoint, distributed
from samba_asr.training.tasks import TextTask
from samba_asr.training.trainer import TrainResult, run

logger = logging.getLogger(__name__)

LINES = 500_000  # of the text, for training the tokenizer
DEFAULTS = ("train.epochs=1000", "data.buckets=50")  # settings of a language model that differ from a recognizer's


def train_language_model(
    config: Config,
    text: Sequence[Path],
    valid: Sequence[str],
    folder: Path,
    *,
    tokenizer: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> TrainResult:
    """Train in `folder`, or continue the run in it, and write the model to `folder`/model.

    text: files, plain or compressed, one sentence per line.  valid: lines for the perplexity.
    tokenizer: folder of a model whose units to use; default: train new ones on the text.  dtype: of matrices in the file.
    Under torchrun, every process must call it.
    """
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
    ranks = distributed.start(config.train.device)
    if ranks.rank == 0 and not has_tokenizer(folder):
        if tokenizer:
            load_tokenizer(tokenizer).save(folder)
        else:
            size = config.tokenizer.vocab_size if config.tokenizer.kind == "bpe" else None
            lines, kind = islice(read_lines(text), LINES), config.tokenizer.kind
            train_tokenizer(lines, kind, size, folder, lambda words: load_pronouncer().pronounce(words))
    ranks.barrier()
    units = load_tokenizer(folder)
    logger.info("reading the text")
    lines = TextSet(read_lines(text), units, config)
    result = run(config, folder, units, lambda config: TextTask(config, units, lines, valid))
    if ranks.rank == 0 and not result.signal:
        config = configs.load(folder=folder)
        model = MambaLm(config.lm, config.model.vocab_size)
        model.load_state_dict(checkpoint.average(checkpoint.choose(folder, best=1, last=0)))
        perplexity = result.best.value if result.best else math.nan
        save_lm(folder / "model", model, config, units, perplexity=perplexity, dtype=dtype)
    return result
