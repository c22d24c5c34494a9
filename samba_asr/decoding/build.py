"""From settings to a search: the one place where `decode.*` is read."""

from __future__ import annotations

from pathlib import Path

from samba_asr import collector
from samba_asr.config import DecodeConfig
from samba_asr.decoding.guide import Guide, Guides
from samba_asr.decoding.hotwords import HotwordGuide, Hotwords
from samba_asr.decoding.hotwords import read as read_hotwords
from samba_asr.decoding.neural import MambaGuide, TextScorer, check_weight, same_units
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

NEEDS = {"rescore": "nbest", "nbest": "nbest", "lm": "lm", "neural_lm": "lm", "hotwords": "hotwords"}
"""What a search must take (`Decoder.takes`) where these settings are given."""

READ = 8
"""Hypotheses that the second pass and a language model read, of the n-best.

With 8 of 64 the WER of dev-5h was 0.04 % above that with all.  What they cost is what they have units, and the service pays it at
every endpoint: 16 took 50 to 75 ms of a core."""


@collector.paused()
def two_pass(loaded: LoadedModel, config: DecodeConfig, decoder: SecondPass | None = None) -> TwoPass:
    """Both passes as `config` has them; UserError for what does not go together, or a file that is not what it should be.

    decoder: of the second pass.
    """
    method = searches[config.method]
    wants = {"rescore": config.rescore, "nbest": config.nbest > 1, "lm": config.lm, "hotwords": config.hotwords}
    wants |= {"neural_lm": config.neural_lm}
    for key, wanted in wants.items():
        need = NEEDS[key]
        if wanted and need not in method.takes:
            raise UserError(refusal(f"decode.{key}={getattr(config, key)} needs", need, config.method))
    if not 1 <= config.nbest <= config.beam:
        raise UserError(f"decode.nbest={config.nbest} must be 1 .. decode.beam={config.beam}")
    if config.block < -1:
        raise UserError(f"decode.block={config.block}: encoder frames, or -1 for the model's largest block")
    words, phrases = word_guide(loaded, config), None
    hotwords = HotwordGuide() if "hotwords" in method.takes else None
    if config.hotwords:
        path = search_file(config.hotwords, loaded, "hotwords")
        phrases = Hotwords(tokenizer_of(loaded, config), read_hotwords(path, config.hotword_weight))
    neural, reader = neural_lm(loaded, config, alone=words is None)
    guides = [guide for guide in (words, neural, hotwords) if guide]
    guide = Guides(guides) if len(guides) > 1 else guides[0] if guides else None
    search = method.from_config(config, guide, counts_words=words is not None)
    return TwoPass(
        search, decoder, weight=config.rescore, nbest=min(config.beam, READ), hotwords=phrases, reader=reader
    )


def neural_lm(loaded: LoadedModel, config: DecodeConfig, alone: bool) -> tuple[MambaGuide | None, TextScorer | None]:
    """The Mamba language model as a guide where it has the recogniser's units, or else as one that reads the n-best.

    alone: whether there is no n-gram that counts words.
    """
    if not config.neural_lm:
        return None, None
    check_weight(config.neural_weight)
    lm = load_lm(search_file(config.neural_lm, loaded, "neural_lm"), next(loaded.model.parameters()).device)
    if not same_units(lm, loaded.tokenizer):
        return None, TextScorer(lm, loaded.tokenizer, weight=config.neural_weight)
    bonus = config.word_bonus if alone else 0.0
    return MambaGuide(lm.model, lm.tokenizer, weight=config.neural_weight, bonus=bonus), None


def tokenizer_of(loaded: LoadedModel, config: DecodeConfig) -> Tokenizer:
    """The model's tokenizer, which as one of phones knows the words of decode.lexicon too."""
    if not config.lexicon:
        return loaded.tokenizer
    return with_lexicon(loaded.tokenizer, search_file(config.lexicon, loaded, "lexicon"))


def word_guide(loaded: LoadedModel, config: DecodeConfig) -> Guide | None:
    """The language model and its words; None without one."""
    for key in ("words", "lexicon"):
        if getattr(config, key) and not config.lm:
            raise UserError(f"decode.{key}={getattr(config, key)} goes with a language model: set decode.lm")
    if not config.lm:
        return None
    model = read_ngram(search_file(config.lm, loaded, "lm"))
    words = None
    if config.words:
        path = search_file(config.words, loaded, "words")
        words = [line.split()[0] for line in read_lines(path, "words") if line.strip()]
    return WordGuide(tokenizer_of(loaded, config), model, words, weight=config.lm_weight, bonus=config.word_bonus)


def with_lexicon(tokenizer: Tokenizer, path: Path) -> Tokenizer:
    """A phone tokenizer that knows more words; UserError for phones that it has not."""
    if not isinstance(tokenizer, PhoneTokenizer):
        raise UserError(
            f"decode.lexicon={path}: this model's units are {tokenizer.KIND}, and spell every word: leave it out"
        )
    more = Lexicon.read(path)
    strange = sorted(set(more.phones) - set(tokenizer.lexicon.phones))
    if strange:
        raise UserError(
            f"{path}: the model has no phones {', '.join(strange[:5])}; it has {', '.join(tokenizer.lexicon.phones)}"
        )
    return PhoneTokenizer(Lexicon({**more, **tokenizer.lexicon}))
