"""N-grams by table look-up against Katz's definition, and against KenLM where it is installed."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samba_asr.decoding import packed
from samba_asr.decoding.ngram import KenLmModel, read_arpa, read_ngram
from samba_asr.errors import UserError
from tests.decoding.toys import ARPA, write_arpa
from tests.shared import needs_shared, shared
from tests.support.search import katz

WORDS = ["a", "b", "ab", "aab", "</s>", "<unk>"]


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


# Any model there can be


@st.composite
def arpa_models(draw) -> dict[tuple[str, ...], tuple[float, float]]:
    """n-grams with log10 of probability and back-off, of orders 1 to 4; each but the 1-grams may be missing."""
    words = ["<s>", "</s>", "A", "B"]
    values = st.integers(-40, 0).map(lambda n: n / 10)
    found = {(word,): (draw(values), draw(values)) for word in words}
    for order in range(2, draw(st.integers(1, 4)) + 1):
        grams = st.tuples(*[st.sampled_from(words)] * order)
        for gram in draw(st.lists(grams, max_size=8, unique=True)):
            found[gram] = (draw(values), draw(st.integers(-20, 5).map(lambda n: n / 10)))
    return found


def arpa_of(grams: dict[tuple[str, ...], tuple[float, float]], order: int) -> str:
    sections = [[gram for gram in grams if len(gram) == m] for m in range(1, order + 1)]
    head = "".join(f"ngram {m}={len(some)}\n" for m, some in enumerate(sections, 1))
    body = "".join(
        f"\n\\{m}-grams:\n" + "".join(f"{grams[g][0]}\t{' '.join(g)}\t{grams[g][1]}\n" for g in some)
        for m, some in enumerate(sections, 1)
    )
    return f"\\data\\\n{head}{body}\n\\end\\\n"


def defined(grams: dict[tuple[str, ...], tuple[float, float]], context: tuple[str, ...], word: str) -> float:
    """log10 p(word | context), as S. Katz wrote it."""
    if (*context, word) in grams:
        return grams[*context, word][0]
    return grams.get(context, (0.0, 0.0))[1] + defined(grams, context[1:], word)


@given(
    grams=arpa_models(), empty=st.integers(0, 2), text=st.lists(st.sampled_from(["A", "B", "</s>", "<s>"]), max_size=8)
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_model_scores_any_text_as_katz_defines_packed_or_not(tmp_path, grams, empty, text):
    """Orders may be empty, contexts pruned, back-offs above 1; contexts are carried from word to word."""
    order = max(map(len, grams)) + empty
    path = write_arpa(tmp_path, arpa_of(grams, order))
    said = ["<s>", *text]
    expected = [
        defined(grams, tuple(said[max(0, i - order + 1) : i]) if order > 1 else (), said[i])
        for i in range(1, len(said))
    ]
    assert of_sentence(read_ngram(path), text) == pytest.approx(expected, abs=1e-5)
    packed.write(tmp_path / "lm.ngram", *read_arpa(path))
    assert of_sentence(read_ngram(tmp_path / "lm.ngram"), text) == pytest.approx(
        expected, abs=order / 32 / math.log(10) + 1e-5
    )


def test_an_order_that_the_head_calls_empty_needs_no_section(tmp_path):
    arpa = ARPA.replace("ngram 3=2\n", "ngram 3=2\nngram 4=0\nngram 5=0\n")
    assert of_sentence(read_ngram(write_arpa(tmp_path, arpa)), ["a", "b"]) == pytest.approx(
        [katz(("<s>",), "a"), -0.05]
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nan\ta b\t-0.25", "line 20: .*'nan' is no logarithm"),
        ("0.3\ta b\t-0.25", "line 20: .*'0.3' is no logarithm"),
        ("inf\ta b\t-0.25", "line 20: .*'inf' is no logarithm"),
        ("-0.3\ta b\tnan", "line 20: .*the back-off 'nan'"),
        ("-0.3\ta b\tinf", "line 20: .*the back-off 'inf'"),
        ("-0.3\t<s> a\t-0.25", "'<s> a' comes twice"),
    ],
)
def test_what_is_no_probability_is_refused_with_its_line_in_packing_too(tmp_path, line, message):
    path = write_arpa(tmp_path, ARPA.replace("-0.3\ta b\t-0.25", line))
    for read in (read_ngram, read_arpa):
        with pytest.raises(UserError, match=message):
            read(path)


def test_minus_infinity_is_never_and_rounding_above_one_is_one(tmp_path):
    arpa = ARPA.replace("-0.3\ta b\t-0.25", "-inf\ta b\t-inf").replace("-0.05\t<s> a b", "0.000001\t<s> a b")
    model = read_ngram(write_arpa(tmp_path, arpa))
    assert of_sentence(model, ["a", "b"])[1] == 0.0
    (score,), _ = model.score([(model.ids["a"],)], [model.ids["b"]])
    assert score == pytest.approx(-99 * math.log(10))


def test_a_model_without_an_end_is_refused(tmp_path):
    with pytest.raises(UserError, match="</s> is not among the 1-grams"):
        read_ngram(write_arpa(tmp_path, "\\data\\\nngram 1=1\n\n\\1-grams:\n-1\ta\n\n\\end\\\n"))


@needs_shared("cases")
def test_the_cases():
    model = read_ngram(shared("cases/pruned_prefix.arpa"))
    assert of_sentence(model, ["HELLO", "WORLD"])[1] == pytest.approx(-0.2)
    with pytest.raises(UserError, match=r"nan1\.arpa, line 14: .*'nan'"):
        read_ngram(shared("cases/nan1.arpa"))


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
