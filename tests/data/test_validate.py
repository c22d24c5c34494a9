"""Validation finds everything at once, and the repair leaves nothing to find."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.audio.read import AudioError, AudioInfo
from samba_asr.data.manifest import Utterance
from samba_asr.data.validate import fix, validate
from samba_asr.errors import UserError

HEADERS = {"/ok.wav": AudioInfo(2.0, 16000, 1), "/empty.wav": AudioInfo(0.0, 16000, 1)}


def utterance(id: str, audio: str = "/ok.wav", **fields) -> Utterance:
    return Utterance(**{"id": id, "audio": audio, "text": "HI", "speaker": "s", **fields})


def kinds(splits, **options) -> list[tuple[str, str]]:
    return [(problem.kind, problem.id) for problem in validate(splits, headers=HEADERS, **options).problems]


def test_a_good_corpus_has_no_problems():
    report = validate({"train": [utterance("a"), utterance("b", start=1.0, duration=1.0)]}, headers=HEADERS)
    assert report.ok
    assert report.text() == "train: 2 utterances, 1 speakers, 0.00 hours\nno problems"


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (utterance("x", "/nowhere.wav"), "missing file"),
        (utterance("x", "/empty.wav"), "zero duration"),
        (utterance("x", start=2.0), "zero duration"),
        (utterance("x", duration=0.05), "too short"),
        (utterance("x", start=1.0, duration=1.5), "past the end"),
        (utterance("x", text=" "), "empty text"),
        (utterance("x", speaker="J D"), "bad id"),
    ],
)
def test_what_is_wrong_is_found(wrong, kind):
    assert kinds({"train": [utterance("a"), wrong]}) == [(kind, "x")]


def test_headers_that_cannot_be_read_are_found(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    report = validate({"train": [utterance("x", str(tmp_path / "a.wav")), utterance("y", str(tmp_path / "b.wav"))]})
    assert [(p.kind, p.id) for p in report.problems] == [("unreadable audio", "x"), ("missing file", "y")]


def test_limits_are_the_callers():
    splits = {"train": [utterance("a"), utterance("b", text="")]}
    assert kinds(splits, longest=1.0, texts=False) == [("too long", "a"), ("too long", "b")]
    assert kinds(splits, shortest=3.0, texts=False) == [("too short", "a"), ("too short", "b")]


def test_an_id_twice_is_found_in_one_set_and_between_sets():
    splits = {
        "train": [utterance("a", speaker=""), utterance("b", speaker="")],
        "dev": [utterance("a", speaker="")] * 2,
    }
    assert sorted(kinds(splits)) == [("duplicate id", "a"), ("duplicate id", "a")]
    fixed, dropped = fix(splits, validate(splits, headers=HEADERS))
    assert {name: [u.id for u in utterances] for name, utterances in fixed.items()} == {"train": ["b"], "dev": ["a"]}
    assert dropped == [("a", "duplicate id: also in dev"), ("a", "duplicate id: also in dev")]


def test_a_speaker_in_two_sets_is_dropped_from_the_training_one():
    splits = {
        "train-clean": [utterance("a"), utterance("b", speaker="other")],
        "test": [utterance(f"t{n}") for n in range(5)],
    }
    report = validate(splits, headers=HEADERS)
    assert [(p.kind, p.split, p.id, p.detail) for p in report.problems] == [
        ("speaker overlap", "train-clean", "a", "speaker s is also in test")
    ]
    fixed, dropped = fix(splits, report)
    assert [u.id for u in fixed["train-clean"]] == ["b"]
    assert fixed["test"] == splits["test"]
    assert dropped == [("a", "speaker overlap: speaker s is also in test")]
    assert validate(splits, headers=HEADERS, overlap=True).ok


def test_the_report_counts_and_shows_the_first_five():
    report = validate({"train": [utterance(f"{n}", text="") for n in range(7)]}, headers=HEADERS)
    assert report.counts() == {"empty text": 7}
    lines = report.text().splitlines()
    assert lines[1:3] == ["empty text: 7", "    train 0: no transcript"]
    assert lines[-2:] == ["    and 2 more", "7 problems"]


def test_a_set_is_not_fixed_away():
    splits = {"train": [utterance("a", text="")], "dev": []}
    with pytest.raises(UserError, match="every utterance of train has a problem"):
        fix(splits, validate(splits, headers=HEADERS))


some = st.builds(
    utterance,
    id=st.sampled_from("abcdef"),
    audio=st.sampled_from(["/ok.wav", "/ok.wav", "/empty.wav", "/nowhere.wav"]),
    text=st.sampled_from(["HI", "HI", ""]),
    speaker=st.sampled_from(["", "s1", "s2", "s3"]),
    duration=st.sampled_from([None, 0.01, 1.0, 3.0]),
)


@given(splits=st.dictionaries(st.sampled_from(["train", "dev", "test"]), st.lists(some, max_size=6)))
def test_after_the_fix_there_is_nothing_to_find(splits):
    report = validate(splits, headers=HEADERS)
    try:
        fixed, dropped = fix(splits, report)
    except UserError:
        return
    assert validate(fixed, headers=HEADERS).ok
    assert sum(map(len, fixed.values())) + len(dropped) == sum(map(len, splits.values()))


def test_errors_of_headers_are_passed_on():
    report = validate({"a": [utterance("x", __file__)]}, headers={__file__: AudioError("broken: mend it")})
    assert report.problems[0].detail == "broken: mend it"
