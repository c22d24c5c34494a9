"""The written form of segments: live equals offline, words keep times and confidences, partial texts."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import PunctuationConfig
from samba_asr.decoding.confidence import Evidence
from samba_asr.decoding.transcript import Segment, Word
from samba_asr.decoding.written import SURE, TEXTS, Writer, writes_english
from samba_asr.models import punctuator
from samba_asr.models.punctuator import FILE, Punctuator, load_punctuator
from samba_asr.text.tokenizer import CharTokenizer
from samba_asr.text.written.marks import CASES, MARKS

CONFIG = PunctuationConfig(words=9, hashes=40, d_embedding=8, layers=2, d_model=8, d_state=3, headdim=4)
WORDS = "she went to the twenty first street and paid five dollars did he see it no".upper().split()


def net(seed=0, scale=6.0, marks=True):
    """A network of random weights that uses all its classes.  marks: without, it writes none."""
    torch.manual_seed(seed)
    found = Punctuator(CONFIG, ["she", "to", "the"], {"street": "StreeT"}).eval()
    with torch.no_grad():
        found.output.weight.mul_(scale)
        found.output.bias[len(CASES)] += 0 if marks else 1000
    return found


def segment(words, begin=0.0, pause=0.4, gap=0.15):
    """Words of 0.2 s each, with gaps that vary, and a silence at the end."""
    placed, at = [], begin
    for i, word in enumerate(words):
        placed.append(Word(word, round(at, 3), round(at + 0.2, 3), 0.5 + 0.01 * i, Evidence(-0.1, 1.0)))
        at += 0.2 + gap * (i % 3)
    until = round(placed[-1].end + pause, 3) if placed else begin
    return Segment(" ".join(words), begin, placed[-1].end if placed else begin, tuple(placed), until)


def segments(sizes, words=WORDS):
    found, at, rest = [], 0.0, itertools.cycle(words)
    for size in sizes:
        found.append(segment([next(rest) for _ in range(size)], at))
        at = found[-1].until
    return found


def written(some, **options):
    writer = Writer(net(), **options)
    done = [ready for one in some for ready in writer.write(one)]
    return [*done, *writer.finish()]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_live_equals_offline_for_the_same_look_ahead(sizes, ahead):
    """Live, segments come one by one; offline, all are there at once.  A preview in between changes nothing."""
    some = segments(sizes)
    offline = written(some, ahead=ahead)
    writer, live = Writer(net(), ahead=ahead), []
    for one in some:
        writer.preview(one.text)
        live += writer.write(one)
    live += writer.finish()
    assert [one.written for one in live] == [one.written for one in offline]
    assert [one.text for one in live] == [one.text for one in some]  # the spoken form stays


def test_without_look_ahead_a_segment_is_written_at_once_whatever_follows():
    some = segments([4, 6, 3])
    writer = Writer(net())
    first = writer.write(some[0])
    assert len(first) == 1
    assert first == written(some)[:1]
    assert not writer.finish()


def test_with_look_ahead_a_segment_waits_for_as_many_words():
    some = segments([4, 2, 2, 5])
    writer = Writer(net(), ahead=4)
    assert [len(writer.write(one)) for one in some] == [0, 0, 1, 2]
    assert len(writer.finish()) == 1


def test_the_segments_before_it_change_how_a_segment_is_written():
    one = segment(WORDS[:6])
    texts = set()
    for words in (["SHE", "TO"], ["IT", "NO"], ["FIVE"], ["STREET", "THE", "TO"]):
        writer = Writer(net(scale=20.0))
        writer.write(segment(words))
        texts.add(writer.write(one)[0].written.text)
    assert len(texts) > 1


def test_written_words_keep_the_times_and_confidences_of_their_spoken_words():
    (one,) = Writer(net(marks=False)).write(segment(["PAID", "FIVE", "DOLLARS"]))
    paid, money = one.written.words
    assert [word.text for word in money.spoken] == ["FIVE", "DOLLARS"]
    assert (money.start, money.end) == (one.words[1].start, one.words[2].end)
    assert money.confidence == min(one.words[1].confidence, one.words[2].confidence)
    assert money.text.startswith("$5")
    assert (paid.start, paid.end, paid.confidence) == (one.words[0].start, one.words[0].end, one.words[0].confidence)
    assert money.entry()["spoken"] == ["FIVE", "DOLLARS"]


def test_numbers_stay_in_words_if_asked():
    (one,) = Writer(net(marks=False), digits=False).write(segment(["PAID", "FIVE", "DOLLARS"]))
    assert [len(word.spoken) for word in one.written.words] == [1, 1, 1]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_every_spoken_word_is_written_once(words):
    (one,) = written([segment(words)])
    assert [word for piece in one.written.words for word in piece.spoken] == list(one.words)


def test_the_last_words_of_a_partial_text_have_no_marks():
    network = net()
    with torch.no_grad():
        network.output.bias[len(CASES) + MARKS.index(",")] = 100.0  # a comma everywhere
    words = Writer(network).preview("SHE WENT TO THE STREET")[0].split()
    assert [word.endswith(",") for word in words] == [True] * (5 - SURE) + [False] * SURE
    assert Writer(network).preview("") == ("", "")


def test_a_partial_text_is_read_again_after_some_words_or_a_change():
    """In between its new words are lower case."""
    writer, calls = Writer(net()), []
    classes = writer._classes
    writer._classes = lambda words, *rest: calls.append(len(words)) or classes(words, *rest)
    for n in range(1, 11):
        text = writer.preview(" ".join(WORDS[:n]))[0]
        assert len(text.replace(" —", "").split()) <= n
    assert calls == [1, 5, 9]
    assert text.split()[-1] == WORDS[9].lower()
    writer.preview("HE " + " ".join(WORDS[1:10]))
    assert calls == [1, 5, 9, 10]


def test_the_stable_words_of_a_partial_text_begin_its_written_form():
    writer = Writer(net(marks=False))
    text, stable = writer.preview("SHE PAID TWENTY FIVE DOLLARS", "SHE PAID TWENTY")
    assert text.lower().endswith("paid $25")
    assert stable == " ".join(text.split()[:2])  # the number may go on
    assert writer.preview("SHE PAID TWENTY", "SHE PAID TWENTY")[1] == stable
    assert writer.preview("SHE PAID", "SHE PAID")[1] == stable


def test_a_text_does_not_end_with_a_comma():
    network = net()
    with torch.no_grad():
        network.output.bias[len(CASES) + MARKS.index(",")] = 100.0
    one, two = segments([3, 2])
    assert Writer(network).write(one)[0].written.text.endswith(",")
    assert [found.written.text[-1] for found in Writer(network).finish([one, two])] == [",", "."]


def test_an_empty_segment_is_no_error():
    assert written([segment([])])[0].written.words == ()


def test_texts_of_other_languages_are_not_punctuated():
    english = CharTokenizer.train(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"])
    assert writes_english(english)
    assert not writes_english(CharTokenizer.train(["ONE TWO THREE FOUR FIVE"]))
    assert not writes_english(CharTokenizer.train(["ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜ"]))
    assert TEXTS == ("written", "spoken")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("HE CAME BACK TO ENGLAND IN NINETEEN EIGHTY FOUR", "He came back to England in 1984."),
        ("I WENT TO LONDON WITH MISTER SMITH", "I went to London with Mister Smith."),
    ],
)
def test_the_shipped_network_writes_sentences(said, expected):
    (one,) = Writer(load_punctuator()).write(segment(said.split(), pause=1.2, gap=0.01))
    assert one.written.text == expected


def test_the_shipped_network_takes_at_most_three_megabytes():
    assert Path(punctuator.__file__).with_name(FILE).stat().st_size <= 3e6
