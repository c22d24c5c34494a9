"""The best texts of a search in training: those that `loss.mwer` compares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import Tensor

from samba_asr.config import Config
from samba_asr.decoding.base import text_of
from samba_asr.decoding.build import first_pass
from samba_asr.decoding.searches import refusal, searches
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.loaded import LoadedModel
from samba_asr.text.tokenizer import Tokenizer
from samba_asr.training.objectives.mwer import Reader, Reading


def n_best(config: Config, tokenizer: Tokenizer, folder: Path | None) -> Reader:
    """Return the reader of `loss.mwer_nbest` texts by the search of `decode.*`, whose files are in `folder`.

    It uses lexicon and n-gram, not a decoder's second pass or a neural language model, which read what a search leaves.
    UserError for fewer than two texts, and for a search that has one text only.
    """
    wanted, own = config.loss.mwer_nbest, config.decode.search
    if wanted < 2:
        raise UserError(f"loss.mwer_nbest={wanted}: of one text there is nothing to choose; give 2 or more, such as 8")
    if "nbest" not in searches[own.method].takes:
        raise UserError(refusal(f"loss.mwer={config.loss.mwer:g} needs", "nbest", own.method))
    if own.beam < wanted:
        raise UserError(f"loss.mwer_nbest={wanted} texts need a beam of as many: decode.search.beam={own.beam}")
    decode = replace(config.decode, search=replace(own, lattice=0.0, nbest=wanted, rescore=0.0))
    loaded = LoadedModel(cast("AsrModel", None), tokenizer, replace(config, decode=decode), folder)
    search = first_pass(loaded, decode)

    def read(log_probs: Tensor, lengths: Tensor) -> list[list[Reading]]:
        state = search.finish(search.step(log_probs.float().cpu(), lengths.cpu(), search.init_state(len(lengths))))
        found = search.hypotheses(state, wanted)
        return [[Reading(h.tokens, text_of(h, tokenizer), h.score) for h in row] for row in found]

    return read
