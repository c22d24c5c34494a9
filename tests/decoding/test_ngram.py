"""N-grams by table look-up against Katz's definition, and against KenLM where it is installed."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samba_asr.decoding.ngram import KenLmModel, read_ngram
from samba_asr.errors import UserError
from tests.decoding.toys import ARPA, write_arpa

WORDS = ["a", "b", "ab", "aab", "</s>", "<unk>"]
GRAMS = {
    tuple(line.split("\t")[1].split()): [float(x) for x in [*line.split("\t"), "0"][0:3:2]]
    for line in ARPA.splitlines()
    if "\t" in line
}


def katz(context: tuple[str, ...], word: str) -> float:
    """log10 p(word | context): the definition."""
    if (*context, word) in GRAMS:
        return GRAMS[*context, word][0]
    return GRAMS.get(context, [0, 0])[1] + katz(context[1:], word)


def of_sentence(model, words: list[str]) -> list[float]:
    """log10 p of each word, carrying the context."""
    context, found = model.start, []
    for word in words:
        (score,), (context,) = model.score([context], [model.ids[word]])
        found.append(score / math.log(10))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return read_ngram(write_arpa(tmp_path_factory.mktemp("lm")))


@given(words=st.lists(st.sampled_from(WORDS), max_size=8))
@settings(deadline=None)
def test_a_text_scores_as_katz_defines(model, words):
    said = ["<s>", *words]
    expected = [katz(tuple(said[max(0, i - 2) : i]), said[i]) for i in range(1, len(said))]
    assert of_sentence(model, words) == pytest.approx(expected, abs=1e-6)


@given(questions=st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=4), st.sampled_from(WORDS)), max_size=6))
@settings(deadline=None)
def test_a_batch_is_as_its_rows(model, questions):
    ids = [([model.ids[w] for w in context], model.ids[word]) for context, word in questions]
    together, after = model.score([tuple(c) for c, _ in ids], [w for _, w in ids])
    alone = [model.score([tuple(c)], [w]) for c, w in ids]
    assert together.tolist() == [s[0] for s, _ in alone]
    assert after == [c[0] for _, c in alone]


def test_a_context_holds_no_more_than_the_model_can_use(model):
    _, (after,) = model.score([(model.ids["a"], model.ids["b"])], [model.ids["ab"]])
    assert after == (model.ids["ab"],)  # no 2-gram `b ab`
    _, (after,) = model.score([()], [model.ids["aab"]])
    assert after == (model.ids["aab"],)


def test_gzip(model, tmp_path):
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(ARPA.encode()))
    assert of_sentence(read_ngram(tmp_path / "lm.arpa.gz"), ["a", "b"]) == of_sentence(model, ["a", "b"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-0.3\ta b\t-0.25", "-0.3\ta", r"line 20: .*1 words where a 2-gram"),
        ("-0.3\ta b\t-0.25", "zero\ta b", r"line 20: .*'zero'"),
        ("-0.3\ta b\t-0.25", "-0.3\ta c", r"line 20: .*'c' is not among the 1-grams"),
        ("ngram 2=6", "ngram 2=7", r"6 2-grams where the head has 7"),
        ("ngram 2=6", "ngram 2=six", r"line 5: .*ngram 2=six"),
        ("\\2-grams:", "\\3-grams:", r"\\3-grams:' where \\2-grams: should be"),
        ("\\end\\\n", "", r"no \\end\\"),
        (ARPA, "", r"not even a \\data\\"),
        ("\\3-grams:\n-0.05\t<s> a b\n-0.35\ta b </s>\n", "", "ends early"),
    ],
)
def test_a_corrupt_file_is_named_with_its_line(tmp_path, old, new, message):
    assert old in ARPA
    with pytest.raises(UserError, match=message):
        read_ngram(write_arpa(tmp_path, ARPA.replace(old, new)))


def test_what_is_no_model_at_all(tmp_path):
    with pytest.raises(UserError, match="cannot read the language model"):
        read_ngram(tmp_path / "nowhere")
    (tmp_path / "lm").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="not readable as an ARPA file"):
        read_ngram(tmp_path / "lm")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(ARPA.encode())[:-20])
    with pytest.raises(UserError, match="not readable as an ARPA file"):
        read_ngram(tmp_path / "cut.gz")


class TestKenLm:
    @given(words=st.lists(st.sampled_from(WORDS[:-1]), max_size=8))
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_its_scores_are_ours(self, model, words, tmp_path):
        pytest.importorskip("kenlm")
        theirs = KenLmModel(write_arpa(tmp_path, ARPA.partition("\n\n")[2]))  # it wants no comment
        theirs.know(WORDS)
        np.testing.assert_allclose(of_sentence(theirs, words), of_sentence(model, words), atol=1e-5)

    def test_a_file_that_is_not_its_own(self, tmp_path):
        pytest.importorskip("kenlm")
        (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 99" + bytes(100))
        with pytest.raises(UserError, match="not a KenLM file"):
            read_ngram(tmp_path / "lm.bin")


def test_words_that_every_writer_spells_in_its_way(tmp_path):
    assert "<unk>" in read_ngram(write_arpa(tmp_path, ARPA.replace("<unk>", "<UNK>"))).ids
