"""Choice between the numpy search and the compiled one (`decode.search.backend`), with its reason."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from samba_asr.config import SearchConfig
from samba_asr.decoding.base import Search
from samba_asr.decoding.guide import Guide, Guides
from samba_asr.decoding.hotwords import HotwordGuide
from samba_asr.decoding.ngram import NgramModel
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError, missing_extra, to_install


class Backend(NamedTuple):
    """Name of a backend, and why it is the one."""

    name: str  # compiled | numpy
    why: str


def has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def choose(config: SearchConfig, *, lm: str = "ngram", neural: bool = False) -> Backend:
    """Choose the backend of beam search.

    lm: language model of words: "" (none), "ngram" (in memory), "kenlm".
    neural: whether a neural language model guides the beam.
    UserError if the compiled search is demanded and cannot be had.
    """
    if config.backend == "numpy":
        return Backend("numpy", "decode.search.backend=numpy")
    refused = ""
    if lm == "kenlm":
        refused = "KenLM's binary files are read by their own library, not by the compiled search"
    elif neural:
        refused = "a neural language model guides the beam, which the compiled search does not do"
    if refused:
        if config.backend == "compiled":
            raise UserError(f"decode.search.backend=compiled: {refused}: use auto or numpy")
        return Backend("numpy", refused)
    if not has_numba():
        if config.backend == "compiled":
            raise missing_extra("numba", "fast")
        return Backend("numpy", f"numba is not installed: {to_install('fast')} for a search in a tenth of the time")
    return Backend("compiled", "numba is installed")


def beam_search(config: SearchConfig, guide: Guide | None, *, counts_words: bool = True) -> Search:
    """Make the beam search with this guide, by the backend that `config` asks for."""
    parts = guide.guides if isinstance(guide, Guides) else () if guide is None else (guide,)
    words = next((part for part in parts if isinstance(part, WordGuide)), None)
    neural = any(part is not words and not isinstance(part, HotwordGuide) for part in parts)
    lm = "" if words is None else "ngram" if isinstance(words.model, NgramModel) else "kenlm"
    if choose(config, lm=lm, neural=neural).name == "numpy":
        return PrefixBeam.from_config(config, guide, counts_words=counts_words)
    from samba_asr.decoding.compiled.search import CompiledBeam

    return CompiledBeam.from_config(config, guide, counts_words=counts_words)
