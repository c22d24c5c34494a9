"""Training of a Mamba language model from text, from nothing or from another one (`samba-asr lm mamba`).

config = config.load(["lm/small"], [*DEFAULTS, "lm.layers=2"])
result = train_language_model(config, [Path("text.txt.gz")], ["A LINE TO VALIDATE ON"], Path("exp/lm"))
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
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
from samba_asr.training.distributed import Ranks
from samba_asr.training.score import Score
from samba_asr.training.tasks import TextTask, nats, perplexity_of, words_and_ends
from samba_asr.training.trainer import TrainResult, run

logger = logging.getLogger(__name__)

LINES = 500_000  # of the text, for training the tokenizer
DEFAULTS = ("train.epochs=1000", "data.buckets=50")  # settings of a language model that differ from a recognizer's
# Settings that adapt a model to some hundred lines (egs/mini_librispeech/RESULTS.md, "The language models of other talk")
ADAPTATION = ("train.epochs=6", "optim.lr=1e-3", "optim.warmup=5", "train.ema=0", "lm.batch_units=2048")


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
    average: bool = False,
    dtype: torch.dtype = torch.float32,
) -> TrainResult:
    """Train in `folder`, or continue the run in it, and write the model to `folder`/model.

    text: files, plain or compressed, one sentence per line.  valid: lines for the perplexity.
    init: folder of a language model, to start with its weights and units.  average: write the mean of its weights and the new
    ones, which keeps most of what either knows (M. Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).
    tokenizer: folder of a model whose units to use; default: train new ones on the text.  dtype: of matrices in the file.
    Under torchrun, every process must call it.
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
        value = result.best.value if result.best else math.nan
        if init and average:
            old = load_lm(init).model.state_dict()
            model.load_state_dict({name: x.lerp(old[name], 0.5) for name, x in model.state_dict().items()})
            value = perplexity(model, units, valid, config) if valid else math.nan
            logger.info("perplexity of the mean with %s: %.1f a word", init, value)
            result = dataclasses.replace(result, best=Score("perplexity", value, "a word"))
        save_lm(folder / "model", model, config, units, perplexity=value, dtype=dtype)
    return result


def perplexity(model: MambaLm, units: Tokenizer, lines: Sequence[str], config: Config) -> float:
    """Return the perplexity a word of lines by a model on the CPU."""
    total = nats(model, TextSet(lines, units, config), Ranks(torch.device("cpu")), torch.float32)
    return perplexity_of(total, words_and_ends(lines))


def adapt(
    old: Path, new: Path, text: Sequence[str], valid: Sequence[str], work: Path, *, minutes: float
) -> tuple[float, float] | None:
    """Adapt the language model in folder `old` to lines of text, and write the mean of both over the folder `new`.

    Return the perplexities of `valid` before and after; None, and leave `new` as it is, if it is no lower.
    work: folder of the run, which continues if it is there.  minutes: at most, of six passes.
    """
    work.mkdir(parents=True, exist_ok=True)
    file = work / "text.txt"
    file.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    config = configs.load(overrides=[*DEFAULTS, *shape(old), *ADAPTATION, f"train.max_minutes={minutes:g}"])
    loaded = load_lm(old)
    before = perplexity(loaded.model, loaded.tokenizer, valid, config)
    result = train_language_model(config, [file], valid, work, init=old, average=True, dtype=torch.bfloat16)
    if result.signal:
        raise UserError(f"stopped by signal {result.signal}: the same command continues")
    after = result.best  # of the mean
    if after is None or not after.value < before:
        return None
    shutil.copytree(work / "model", new, dirs_exist_ok=True)
    return before, after.value


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
