"""Build a search from settings: the only place where `decode.*` is read."""

from __future__ import annotations

from pathlib import Path

from samba_asr import collector
from samba_asr.config import DecodeConfig
from samba_asr.decoding.guide import Guide, Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.hotwords import read as read_hotwords
from samba_asr.decoding.neural import MambaGuide, TextScorer, same_units
from samba_asr.decoding.ngram import read_ngram
from samba_asr.decoding.rescore import TwoPass
from samba_asr.decoding.searches import refusal, searches
from samba_asr.decoding.words import WordGuide
from samba_asr.errors import UserError
from samba_asr.models.folder import LoadedModel, search_file
from samba_asr.models.lm_folder import load_lm
from samba_asr.runtime.base import SecondPass
from samba_asr.text.lexicon import Lexicon
from samba_asr.text.lines import read_lines
from samba_asr.text.phones import PhoneTokenizer
from samba_asr.text.units import Tokenizer

NEEDS = {
    "search.rescore": "nbest",
    "search.nbest": "nbest",
    "lm.path": "lm",
    "lm.neural": "lm",
    "hotwords.path": "hotwords",
}
"""Settings, and what a search must take (`Search.takes`) to honor each."""

READ = 8
"""Hypotheses of the n-best list that the second pass and a language model score.

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
    words, phrases = word_guide(loaded, config), None
    hotwords = HotwordGuide() if "hotwords" in method.takes else None
    if config.hotwords.path:
        path = search_file(config.hotwords.path, loaded, "hotwords.path")
        phrases = Hotwords(tokenizer_of(loaded, config), read_hotwords(path, config.hotwords.weight))
    neural, reader = neural_lm(loaded, config, alone=words is None)
    guides: list[Guide] = [guide for guide in (words, neural, hotwords) if guide]
    guide = Guides(guides) if len(guides) > 1 else guides[0] if guides else None
    return TwoPass(
        method.from_config(config.search, guide, counts_words=words is not None),
        decoder,
        weight=config.search.rescore,
        nbest=min(config.search.beam, READ),
        hotwords=phrases,
        reader=reader,
    )


def neural_lm(loaded: LoadedModel, config: DecodeConfig, alone: bool) -> tuple[MambaGuide | None, TextScorer | None]:
    """Load the Mamba language model: as a guide if it has the recognizer's units, else as a scorer of the n-best list.

    alone: whether there is no n-gram of words, so that this model adds the word bonus.
    """
    if not config.lm.neural:
        return None, None
    weight = config.lm.neural_weight
    lm = load_lm(search_file(config.lm.neural, loaded, "lm.neural"), next(loaded.model.parameters()).device)
    if not same_units(lm, loaded.tokenizer):
        return None, TextScorer(lm, loaded.tokenizer, weight=weight)
    bonus = config.lm.word_bonus if alone else 0.0
    return MambaGuide(lm.model, lm.tokenizer, weight=weight, bonus=bonus), None


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
