"""Build a search from settings: the only place where `decode.*` is read."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr import collector
from samba_asr.config import DecodeConfig, SearchConfig, SearchLmConfig
from samba_asr.decoding.backend import Backend, beam_search, choose
from samba_asr.decoding.base import Search
from samba_asr.decoding.guide import Guide, Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.hotwords import read as read_hotwords
from samba_asr.decoding.ngram import is_kenlm, read_ngram
from samba_asr.decoding.prefix_beam import ROOMY, PrefixBeam
from samba_asr.decoding.rescore import TwoPass
from samba_asr.decoding.searches import refusal, searches
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from samba_asr.models.loaded import LoadedModel, search_file
from samba_asr.runtime.base import SecondPass
from samba_asr.text.lexicon import Lexicon
from samba_asr.text.lines import read_lines
from samba_asr.text.phones import PhoneTokenizer
from samba_asr.text.units import Tokenizer, same_units

if TYPE_CHECKING:
    from samba_asr.decoding.compiled.tables import Tables
    from samba_asr.decoding.lattice_lm import LatticeLm
    from samba_asr.decoding.neural import MambaGuide, TextScorer
    from samba_asr.decoding.slots import Slots

logger = logging.getLogger(__name__)

NEEDS = {
    "search.rescore": "nbest",
    "search.nbest": "nbest",
    "lm.path": "lm",
    "lm.neural": "lm",
    "hotwords.path": "hotwords",
}
"""Settings, and what a search must take (`Search.takes`) to honor each."""

READ = 8
"""Hypotheses of the n-best list that the second pass scores, and a language model where there are no lattices.

With 8 of 64 the WER of dev-5h was 0.04 % above that with all.  The cost grows with the number of units, and the service pays it
at every endpoint: 16 took 50 to 75 ms of a core."""


@collector.paused()
def two_pass(loaded: LoadedModel, config: DecodeConfig, decoder: SecondPass | None = None) -> TwoPass:
    """Make both passes from `config`; UserError for settings that conflict, or a wrong file.

    decoder: of the second pass.
    """
    method = searches[config.search.method]
    for key, wanted in {
        "search.rescore": config.search.rescore,
        "search.nbest": config.search.nbest if config.search.nbest > 1 else 0,
        "lm.path": config.lm.path,
        "lm.neural": config.lm.neural,
        "hotwords.path": config.hotwords.path,
    }.items():
        if wanted and NEEDS[key] not in method.takes:
            raise UserError(refusal(f"decode.{key}={wanted} needs", NEEDS[key], config.search.method))
    phrases = None
    if config.hotwords.path:
        path = search_file(config.hotwords.path, loaded, "hotwords.path")
        phrases = Hotwords(tokenizer_of(loaded, config), read_hotwords(path, config.hotwords.weight))
    neural, reader = neural_lm(loaded, config, alone=not config.lm.path)
    if (
        reader and not reader.reads_lattices and config.search.beam >= ROOMY
    ):  # it chooses from texts, as the decoder does
        config = replace(config, search=replace(config.search, nbest=max(2, config.search.nbest)))
    return TwoPass(
        first_pass(loaded, config, neural),
        decoder,
        weight=config.search.rescore,
        nbest=min(config.search.beam, READ),
        hotwords=phrases,
        reader=reader,
    )


def first_pass(loaded: LoadedModel, config: DecodeConfig, neural: MambaGuide | None = None) -> Search:
    """Make the search of the first pass.  neural: language model that guides it."""
    method = searches[config.search.method]
    if method is PrefixBeam and backend_of(loaded, config, neural is not None).name == "compiled":
        from samba_asr.decoding.compiled.search import CompiledBeam
        from samba_asr.decoding.compiled.tables import Unsupported

        try:
            tables = word_tables(loaded, config) if config.lm.path else None
            return CompiledBeam.of_tables(config.search, tables, hotwords=True, counts_words=tables is not None)
        except Unsupported as error:
            logger.warning("decode.lm.path=%s: %s: using the numpy search", config.lm.path, error)
    words = word_guide(loaded, config)
    hotwords = HotwordGuide() if "hotwords" in method.takes else None
    guides: list[Guide] = [guide for guide in (words, neural, hotwords) if guide]
    guide = Guides(guides) if len(guides) > 1 else guides[0] if guides else None
    return method.from_config(config.search, guide, counts_words=words is not None)


def backend_of(loaded: LoadedModel, config: DecodeConfig, neural: bool = False) -> Backend:
    """Return the backend of beam search for a model, and the reason.  neural: whether a neural language model guides the beam."""
    lm = ""
    if config.lm.path:
        lm = "kenlm" if is_kenlm(search_file(config.lm.path, loaded, "lm.path")) else "ngram"
    return choose(config.search, lm=lm, neural=neural)


def word_tables(loaded: LoadedModel, config: DecodeConfig) -> Tables:
    """Return the tables of the language model and its words for the compiled search, from the cache folder if they are there."""
    from samba_asr.decoding.compiled.store import tables_for
    from samba_asr.decoding.compiled.tables import of_guide

    lm = config.lm

    def make() -> Tables:
        guide = word_guide(loaded, config)
        assert guide is not None  # there is a language model
        return of_guide(guide)

    if loaded.folder is None:  # a model in memory
        return make()
    files = {
        key: search_file(name, loaded, key)
        for key in ("lm.path", "lm.words", "lm.lexicon")
        if (name := config.file(key))
    }
    files["tokenizer"] = loaded.folder / loaded.tokenizer.FILE
    return tables_for(files, make).weighted(lm.weight, lm.word_bonus)


def build_search(config: SearchConfig, guide: Guide | None = None, *, counts_words: bool = True) -> Search:
    """Make the search by its name, with this guide; beam search by the backend of `decode.search.backend`."""
    method = searches[config.method]
    make = beam_search if method is PrefixBeam else method.from_config
    return make(config, guide, counts_words=counts_words)


def neural_lm(
    loaded: LoadedModel, config: DecodeConfig, alone: bool
) -> tuple[MambaGuide | None, TextScorer | LatticeLm | None]:
    """Load the Mamba language model: as a guide if it has the recognizer's units, else as a reader of lattices or n-best lists.

    alone: whether there is no n-gram of words, so that this model adds the word bonus.
    UserError for a weight that a reader of lattices cannot take from the n-gram.
    """
    lm = config.lm
    if not lm.neural:
        return None, None
    folder = search_file(lm.neural, loaded, "lm.neural")
    lattices = bool(lm.path and config.search.method == "beam" and config.search.lattice)
    if importlib.util.find_spec("torch") is None:
        if not lattices:
            return None, _not_read(lm.neural, "torch, which is not installed")
        return None, lattice_lm_without_torch(folder, loaded, config)
    from samba_asr.decoding.neural import MambaGuide, TextScorer
    from samba_asr.models.lm_folder import load_lm

    device = next(loaded.model.parameters()).device if loaded.model else "cpu"
    model = load_lm(folder, device)
    if same_units(model.tokenizer, loaded.tokenizer):
        bonus = lm.word_bonus if alone else 0.0
        return MambaGuide(model.model, model.tokenizer, weight=lm.neural_weight, bonus=bonus), None
    if not lattices:
        return None, TextScorer(model, loaded.tokenizer, weight=lm.neural_weight)
    from samba_asr.decoding.lm_states import LmStates, with_half_weights

    half = with_half_weights(model.model)
    return None, lattice_lm(model.tokenizer, lambda: LmStates(half), lm)


def lattice_lm(tokenizer: Tokenizer, new_states: Callable[[], Slots], lm: SearchLmConfig) -> LatticeLm:
    """Make the pass over lattices; UserError for more weight than the n-gram has."""
    from samba_asr.decoding.lattice_lm import LatticeLm

    if lm.weight and lm.neural_weight > lm.weight:
        raise UserError(
            f"decode.lm.neural_weight={lm.neural_weight:g} is taken from the n-gram's decode.lm.weight={lm.weight:g}: "
            "give at most that, or leave the model out with decode.lm.neural="
        )
    return LatticeLm(tokenizer, new_states, weight=lm.weight, bonus=lm.word_bonus, neural_weight=lm.neural_weight)


def lattice_lm_without_torch(folder: Path, loaded: LoadedModel, config: DecodeConfig) -> LatticeLm | None:
    """Make the pass over lattices in numpy; None, and a warning, for a model that is no such pass, or needs more packages."""
    from samba_asr.decoding.lm_states_numpy import NumpyLm, NumpyLmStates
    from samba_asr.text.tokenizer import BpeTokenizer, load_tokenizer

    name = config.lm.neural
    if (folder / BpeTokenizer.FILE).is_file() and importlib.util.find_spec("sentencepiece") is None:
        return _not_read(name, "the package sentencepiece, which is not installed")
    tokenizer, model = load_tokenizer(folder), NumpyLm.read(folder)
    if model is None or same_units(tokenizer, loaded.tokenizer):
        return _not_read(name, "torch, which is not installed")
    return lattice_lm(tokenizer, lambda: NumpyLmStates(model), config.lm)


def _not_read(name: str, needed: str) -> None:
    logger.warning("decode.lm.neural=%s needs %s: the n-gram reads alone", name, needed)


def tokenizer_of(loaded: LoadedModel, config: DecodeConfig) -> Tokenizer:
    """Return the model's tokenizer; one of phones is extended by the words of decode.lm.lexicon."""
    if not config.lm.lexicon:
        return loaded.tokenizer
    return with_lexicon(loaded.tokenizer, search_file(config.lm.lexicon, loaded, "lm.lexicon"))


def word_guide(loaded: LoadedModel, config: DecodeConfig) -> WordGuide | None:
    """Load the n-gram language model and its words; None without one."""
    lm = config.lm
    if not lm.path:
        return None
    model, words = read_ngram(search_file(lm.path, loaded, "lm.path")), None
    if lm.words:
        path = search_file(lm.words, loaded, "lm.words")
        words = [line.split()[0] for line in read_lines(path, "words") if line.strip()]
    return WordGuide(tokenizer_of(loaded, config), model, words, weight=lm.weight, bonus=lm.word_bonus)


def with_lexicon(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """Extend a phone tokenizer by the words of a lexicon; UserError for phones that the model lacks."""
    if not isinstance(tokenizer, PhoneTokenizer):
        raise UserError(
            f"decode.lm.lexicon={path}: this model's units are {tokenizer.KIND}, which spell every word: omit the setting"
        )
    more = Lexicon.read(path)
    strange = sorted(set(more.phones) - set(tokenizer.lexicon.phones))
    if strange:
        raise UserError(
            f"{path}: the model has no phones {', '.join(strange[:5])}; it has {', '.join(tokenizer.lexicon.phones)}"
        )
    return PhoneTokenizer(Lexicon({**more, **tokenizer.lexicon}))
