"""Training of a Mamba language model from text, from nothing or from another one (`samba-asr lm mamba`).

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
from samba_asr.errors import UserError
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import load_lm, save_lm
from samba_asr.models.pronouncer import load_pronouncer
from samba_asr.text.lm import read_lines
from samba_asr.text.tokenizer import Tokenizer, has_tokenizer, load_tokenizer, train_tokenizer
from samba_asr.text.units import same_pieces
from samba_asr.training import checkpoint, distributed
from samba_asr.training.tasks import TextTask
from samba_asr.training.trainer import TrainResult, run

logger = logging.getLogger(__name__)

LINES = 500_000  # of the text, for training the tokenizer
DEFAULTS = ("train.epochs=1000", "data.buckets=50")  # settings of a language model that differ from a recognizer's


def shape(folder: Path) -> list[str]:
    """Return the settings that the weights of the language model in `folder` need."""
    config = configs.load(folder=folder)
    names = ("layers", "d_model", "d_state", "expand", "headdim", "ffn_expand", "experts", "memory")
    return [f"lm.{name}={getattr(config.lm, name)}" for name in names] + [f"tokenizer.kind={config.tokenizer.kind}"]


def train_language_model(
    config: Config,
    text: Sequence[Path],
    valid: Sequence[str],
    folder: Path,
    *,
    init: Path | None = None,
    tokenizer: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> TrainResult:
    """Train in `folder`, or continue the run in it, and write the model to `folder`/model.

    text: files, plain or compressed, one sentence per line.  valid: lines for the perplexity.
    init: folder of a language model, to start with its weights and units.  tokenizer: folder of a model whose units to use;
    default: train new ones on the text.  dtype: of matrices in the file.  Under torchrun, every process must call it.
    UserError if the weights of `init` do not fit `config.lm`.
    """
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
    ranks = distributed.start(config.train.device)
    if ranks.rank == 0 and not has_tokenizer(folder):
        if units_of := init or tokenizer:
            load_tokenizer(units_of).save(folder)
        else:
            size = config.tokenizer.vocab_size if config.tokenizer.kind == "bpe" else None
            lines, kind = islice(read_lines(text), LINES), config.tokenizer.kind
            train_tokenizer(lines, kind, size, folder, lambda words: load_pronouncer().pronounce(words))
    ranks.barrier()
    units = load_tokenizer(folder)
    model = _initial(init, config, units) if init else None
    logger.info("reading the text")
    lines = TextSet(read_lines(text), units, config)

    def task(config: Config) -> TextTask:
        made = TextTask(config, units, lines, valid)
        if model and not (folder / checkpoint.LAST).exists():  # what is to be improved
            net = made.objective(model).to(ranks.device)
            made.validate(net, ranks, torch.float32, lambda: None, f"before, {init}")
        return made

    result = run(config, folder, units, task, model)
    if ranks.rank == 0 and not result.signal:
        config = configs.load(folder=folder)
        model = MambaLm(config.lm, config.model.vocab_size)
        model.load_state_dict(checkpoint.average(checkpoint.choose(folder, best=1, last=0)))
        perplexity = result.best.value if result.best else math.nan
        save_lm(folder / "model", model, config, units, perplexity=perplexity, dtype=dtype)
    return result


def _initial(folder: Path, config: Config, units: Tokenizer) -> MambaLm:
    """Make the model of `config` with the weights in `folder`."""
    loaded = load_lm(folder)
    if not same_pieces(loaded.tokenizer, units):
        raise UserError(f"{folder}: its units are not those of the run: train in another folder")
    model = MambaLm(config.lm, units.vocab_size)
    try:
        model.load_state_dict(loaded.model.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: its weights do not fit the configuration (lm.*): {reason}") from None
    return model
