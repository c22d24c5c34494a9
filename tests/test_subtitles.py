"""Subtitles: limits, breaks at marks and pauses, balanced lines, time to read."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding.confidence import Evidence
from samba_asr.decoding.transcript import Segment, Word, Written, WrittenWord
from samba_asr.errors import UserError
from samba_asr.formats import Style, render, render_channels
from samba_asr.result import Result
from samba_asr.subtitles import SILENCE, Layout, subtitles


@dataclass(frozen=True)
class Said:
    text: str
    start: float
    end: float


def spoken(text, pauses=(), rate=0.3):
    """Words of `rate` seconds each.  pauses: seconds after some words, by number."""
    found, at = [], 0.0
    for i, word in enumerate(text.split()):
        found.append(Said(word, round(at, 3), round(at + rate, 3)))
        at += rate + dict(pauses).get(i, 0.0)
    return found


STORY = (
    "It was a dark and stormy night. The rain fell in torrents, except at occasional intervals, when it was checked by a violent "
    "gust of wind which swept up the streets. He stopped."
)
TEXT = st.text("abc ABC.,?", min_size=1, max_size=12).map(lambda t: t.replace(" ", "x"))


@st.composite
def some_words(draw):
    found, at = [], 0.0
    for text in draw(st.lists(TEXT, max_size=40)):
        at += draw(st.sampled_from([0.0, 0.0, 0.1, 0.9, 2.5]))
        long = draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]))
        found.append(Said(text, round(at, 3), round(at + long, 3)))
        at += long
    return found


@given(some_words(), st.integers(5, 50), st.integers(1, 3), st.floats(2, 9))
@settings(max_examples=60, deadline=None)
def test_every_word_is_shown_once_within_the_limits(words, width, lines, longest):
    layout = Layout(max_line_width=width, max_lines=lines, max_duration=longest)
    cues = list(subtitles(words, layout))
    assert [word for cue in cues for line in cue.lines for word in line] == words
    for cue in cues:
        count = sum(map(len, cue.lines))
        said = [word for line in cue.lines for word in line]
        assert cue.start == said[0].start
        assert cue.end >= said[-1].end
        if count > 1:
            assert len(cue.lines) <= lines
            assert all(len(" ".join(w.text for w in line)) <= width for line in cue.lines if len(line) > 1)
            assert said[-1].end - cue.start <= longest
            assert all(b.start - a.end < SILENCE for a, b in itertools.pairwise(said))
    for one, after in itertools.pairwise(cues):
        assert one.end <= after.start


def test_cues_end_with_sentences_and_clauses():
    cues = [cue.text.replace("\n", " ") for cue in subtitles(spoken(STORY))]
    assert cues[0] == "It was a dark and stormy night."
    assert cues[-1].endswith("He stopped.")
    assert all(cue.endswith((".", ",")) for cue in cues)


def test_lines_are_balanced_and_break_after_a_mark():
    (cue,) = subtitles(spoken("The rain fell all the night long, and nobody in the house slept", rate=0.25))
    assert cue.text == "The rain fell all the night long,\nand nobody in the house slept"
    (cue,) = subtitles(spoken("one two three four five six seven eight nine ten elf", rate=0.25), Layout(30))
    lengths = [len(line) for line in cue.text.split("\n")]
    assert max(lengths) - min(lengths) <= 6


def test_without_marks_a_pause_ends_a_cue():
    cues = list(subtitles(spoken("and so it went on and on until nobody cared", pauses=[(4, 1.2)])))
    assert [cue.text for cue in cues] == ["and so it went on", "and on until nobody cared"]


def test_a_cue_is_shown_as_long_as_people_need_to_read_it():
    words = [*spoken("incomprehensibilities notwithstanding", rate=0.2), Said("Yes.", 9.0, 9.2)]
    first, last = subtitles(words)
    assert first.end == pytest.approx(37 / 17, abs=0.01)
    assert last.end == pytest.approx(10.0)
    words = [*spoken("Yes.", rate=0.2), Said("No.", 2.5, 2.7)]
    assert next(subtitles(words)).end == 1.0
    soon = [Said("Yes.", 0.0, 0.2), Said("Noo", 0.2 + SILENCE, 2.5)]
    assert next(subtitles(soon, Layout(min_duration=3.0))).end == 0.2 + SILENCE  # never over the next one


def test_quick_words_are_joined_so_that_they_can_be_read():
    words = spoken("Yes. No. Yes. No. I see. Oh.", rate=0.12)
    assert len(list(subtitles(words))) == 1


def test_no_words_have_no_subtitles():
    assert list(subtitles([])) == []


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ({"max_line_width": 0}, "max-line-width 0"),
        ({"max_lines": -1}, "max-lines -1"),
        ({"max_cps": 0.0}, "max-cps 0"),
        ({"min_duration": 0.0}, "min-duration 0"),
        ({"max_duration": -2.0}, "max-duration -2"),
        ({"max_duration": float("nan")}, "max-duration nan"),
        ({"min_duration": 8.0}, "min-duration 8 is above max-duration 7"),
    ],
)
def test_limits_that_nothing_keeps_are_refused(option, problem):
    with pytest.raises(UserError, match=problem):
        Layout(**option)


# --- the formats


def result():
    """Two spoken words, a number, and a tag-like word."""
    words = [
        Word(t, a, b, 0.9, Evidence(-0.1, 1.0))
        for t, a, b in (("FIVE", 0.0, 0.5), ("DOLLARS", 0.5, 1.0), ("ON", 1.2, 1.4))
    ]
    written = Written(
        (WrittenWord("$5", 0.0, 1.0, 0.9, tuple(words[:2])), WrittenWord("<on>.", 1.2, 1.4, 0.9, tuple(words[2:])))
    )
    return Result((Segment("FIVE DOLLARS ON", 0.0, 1.4, tuple(words), 2.0, written),), 2.0)


def test_srt_and_vtt():
    assert render(result(), "x", "srt") == "1\n00:00:00,000 --> 00:00:01,400\n$5 <on>."
    assert render(result(), "x", "vtt") == "WEBVTT\n\n00:00:00.000 --> 00:00:01.400\n$5 &lt;on&gt;."


def test_word_timestamps_of_vtt_are_in_order_and_inside_the_cue():
    text = render(result(), "x", "vtt", Style(word_timestamps=True))
    assert text.endswith("\n$5 <00:00:01.200>&lt;on&gt;.")
    words = Word("A", 1, 2, 1, Evidence(0, 1)), Word("B", 0.5, 3, 1, Evidence(0, 1))
    cue = render(Result((Segment("A B", 0, 1, words, 3),), 3), "x", "vtt", Style(word_timestamps=True))
    assert not re.search(r"<\d", cue)  # a time that goes back is left out


def test_json_has_both_forms():
    found = json.loads(render(result(), "x.wav", "json"))
    assert found["text"] == "$5 <on>."
    assert found["words"][0] == {
        "word": "$5",
        "start": 0.0,
        "end": 1.0,
        "confidence": 0.9,
        "spoken": ["FIVE", "DOLLARS"],
    }
    assert found["segments"] == [{"text": "$5 <on>.", "start": 0.0, "end": 1.4, "spoken": "FIVE DOLLARS ON"}]
    assert found["spoken"]["text"] == "FIVE DOLLARS ON"
    assert [word["word"] for word in found["spoken"]["words"]] == ["FIVE", "DOLLARS", "ON"]


def test_ctm_and_textgrid_hold_what_was_said_unless_asked_otherwise():
    assert [line.split()[4] for line in render(result(), "x", "ctm").split("\n")] == ["FIVE", "DOLLARS", "ON"]
    assert [line.split()[4] for line in render(result(), "x", "ctm", Style("written")).split("\n")] == ["$5", "<on>."]
    assert '"DOLLARS"' in render(result(), "x", "textgrid")
    assert render(result(), "x", "text", Style("spoken")) == "FIVE DOLLARS ON"


def test_channels_are_written_too():
    found = json.loads(render_channels([result(), result()], "x.wav", "json"))
    assert [word["word"] for word in found["words"]] == ["$5", "<on>.", "$5", "<on>."]
    assert found["spoken"]["words"][0] == {"channel": 1, **result().words[0].entry()}
    assert render_channels([result()], "x", "srt").endswith("[1] $5 <on>.")
