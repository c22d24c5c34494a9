"""Hotwords on real speech: what is expected changes what it covers, and loses nothing else.

lost      a word that is there without the hotwords, more than 0.5 s away from all of them, and not with them
shorter   fewer words than without, by more than those that hotwords cover
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from samba_asr.data.readers import read_corpus
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.transcript import Word
from samba_asr.errors import UserError
from samba_asr.metrics.wer import score
from samba_asr.recognizer import Recognizer
from tests.shared import needs_shared, shared

TEST = "data/LibriSpeech/test-5h"
MARGIN = 0.5  # seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hotwords")


@pytest.fixture(scope="module")
def english(place) -> Recognizer:
    """With a name that its language model lacks."""
    torch.set_num_threads(1)
    (place / "names.txt").write_text("JUSTINIAN JH AH S T IH N IY AH N\n")
    try:
        return Recognizer.load("english", device="cpu", settings=[f"decode.lm.lexicon={place / 'names.txt'}"])
    except UserError as error:
        pytest.skip(str(error))


def lost(without: Sequence[Word], found: Sequence[Word], phrases: Sequence[str]) -> list[str]:
    expected = {word for phrase in phrases for word in phrase.split()}
    said = [word for word in found if word.text in expected]
    report = score({"": " ".join(w.text for w in without)}, {"": " ".join(w.text for w in found)})
    kept = iter(without)
    pairs = [(next(kept), new) for old, new in report.utterances[0].pairs if old is not None]
    return [
        word.text
        for word, new in pairs
        if new is None and all(word.end <= hot.start - MARGIN or hot.end + MARGIN <= word.start for hot in said)
    ]


def shorter(without: Sequence[Word], found: Sequence[Word], phrases: Sequence[str]) -> int:
    expected = {word for phrase in phrases for word in phrase.split()}
    said = [word for word in found if word.text in expected]
    covered = sum(any(word.start < hot.end and hot.start < word.end for hot in said) for word in without)
    return max(0, len(without) - covered - len(found))


@needs_shared(TEST)
@pytest.mark.parametrize("name", ["7859-102519-0001", "7859-102519-0002", "7859-102519-0007"])
def test_a_name_that_begins_another_word_swallows_nothing(english, name):
    """JUSTINIAN is in the lexicon alone, JUSTINIAN'S in the language model too: up to 24 words after it were lost."""
    (audio,) = shared(TEST).rglob(f"{name}.opus")
    without = english.transcribe(audio)
    for weight in (1.5, 3.0):
        found = english.transcribe(audio, hotwords={"JUSTINIAN": weight})
        assert "JUSTINIAN" in found.text.split()
        assert lost(without.words, found.words, ["JUSTINIAN"]) == []
        assert shorter(without.words, found.words, ["JUSTINIAN"]) == 0
    assert english.transcribe(audio, hotwords={"JUSTINIAN": 0.0}) == without


def adversary(rng: random.Random, english: Recognizer, words: Sequence[str]) -> tuple[Hotwords, list[str]]:
    """Hotwords that are said, or resemble what is said: words, phrases, beginnings of words under new names, or any words."""
    tokenizer, lexicon = english.tokenizer, english.tokenizer.lexicon
    at, weight = rng.randrange(len(words)), rng.choice([0.5, 1.0, 1.5, 2.0, 3.0])
    kind = rng.choice(["word", "phrase", "beginning", "new", "any"])
    if kind == "any":
        phrases = rng.sample(list(lexicon), 3)
    elif kind in ("word", "phrase"):
        phrases = [" ".join(words[at : at + (rng.randint(2, 4) if kind == "phrase" else 1)])]
    else:
        phones = [phone for word in words[at : at + 3] for phone in lexicon.get(word, [("AH",)])[0]]
        phones = phones[: rng.randint(3, 10)]
        phones += rng.choices(lexicon.phones, k=rng.randint(1, 4) if kind == "new" else 0)
        phrases = ["NEWNAME"]
        lexicon = type(lexicon)({**lexicon, "NEWNAME": (tuple(phones),)})
        tokenizer = type(tokenizer)(lexicon)
    return Hotwords(tokenizer, dict.fromkeys(phrases, weight)), phrases


@pytest.mark.slow
@needs_shared(TEST)
def test_whatever_is_expected_nothing_else_is_lost(english):
    rng = random.Random(5)
    corpus = [u for part in ("dev-5h", "test-5h") for u in read_corpus(shared(f"data/LibriSpeech/{part}"))]
    for utterance in rng.sample(corpus, 100):
        without = english.transcribe(utterance.audio)
        hotwords, phrases = adversary(rng, english, without.text.split() or ["THE"])
        found = english.transcribe(utterance.audio, hotwords=hotwords)
        if not {word for phrase in phrases for word in phrase.split()} & set(f"{without.text} {found.text}".split()):
            assert found == without
        assert lost(without.words, found.words, phrases) == [], (utterance.id, phrases, without.text, found.text)
        assert shorter(without.words, found.words, phrases) == 0, (utterance.id, phrases, without.text, found.text)
