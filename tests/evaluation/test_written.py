"""Scores of the written form."""

from __future__ import annotations

import numpy as np
import pytest

from samba_asr.cli import main
from samba_asr.decoding.transcript import Written, WrittenWord
from samba_asr.evaluation.written import Labels, baseline, compare, report, segments_of, write
from samba_asr.text.written.marks import MARKS, labelled

TEXT = ["He came. Did Anna see it, there? No."]


class Perfect:
    """A writer that knows the text, but writes LONDON for Anna."""

    digits = False

    def write(self, segment):
        spelt = {"anna": "Anna", "it": "it,", "there": "there?", "no": "No.", "came": "came.", "he": "He", "did": "Did"}
        words = tuple(WrittenWord(spelt.get(w.text, w.text), 0, 0, 1, (w,)) for w in segment.words)
        return [type(segment)(segment.text, 0, 0, segment.words, 0, Written(words))]

    def finish(self):
        return []


def cut(words):
    return list(segments_of(words, 2, 3, np.random.default_rng(0)))


def test_segments_hold_every_word_once():
    words = [f"w{i}" for i in range(20)]
    found = cut(words)
    assert [word.text for segment in found for word in segment.words] == words
    assert {len(segment.words) for segment in found[:-1]} <= {2, 3}


def test_a_perfect_writer_scores_one():
    reference = Labels.of(labelled(TEXT))
    counts = compare(reference, write(Perfect(), cut(reference.words)))
    assert [counts.f1(MARKS.index(mark)) for mark in ",.?"] == [1.0, 1.0, 1.0]
    assert counts.case_accuracy == 1.0


def test_recognition_errors_cost_marks_and_are_not_compared_in_case():
    reference = Labels.of(labelled(TEXT))
    heard = [word for word in reference.words if word not in ("came", "anna")]
    counts = compare(reference, write(Perfect(), cut(heard)))
    assert counts.recall(MARKS.index(".")) == 0.5  # the full stop after "came" is lost
    assert counts.precision(MARKS.index(".")) == 1.0
    assert counts.cases == len(heard)


def test_the_baseline_ends_each_segment():
    found = baseline(cut([f"w{i}" for i in range(7)]))
    assert len(found.words) == len(found.cases) == len(found.marks) == 7
    assert found.marks[-1] == MARKS.index(".")
    assert found.cases[0] == 1
    assert sum(found.cases) == sum(mark > 0 for mark in found.marks)


def test_the_report_names_intervals_and_amounts():
    reference = Labels.of(labelled(TEXT))
    line = report("x", [compare(reference, reference)] * 3)
    assert line.startswith("x: full stop 1.000 [1.000, 1.000] (P 1.000, R 1.000, 6); comma 1.000")
    assert line.endswith("case 1.0000 [1.0000, 1.0000], 24 words")


@pytest.mark.parametrize(
    "options", [[], ["book.txt", "--data", "x"], ["book.txt", "--paragraphs", "0"], ["nowhere.txt"]]
)
def test_bad_options_are_one_line(options, capsys):
    assert main(["punctuation", "score", *options]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_the_commands_split_and_score(tmp_path, capsys):
    books = [[f"He came to house {i}. It was number one, and they saw it." for i in range(30)] for _ in range(40)]
    lines = [line.replace(str(i), "so") for book in books for i, line in enumerate(book)]
    (tmp_path / "books.txt").write_text("\n".join(lines))
    rows = [f"A\tB\t1\tC\tD\t{sum(map(len, lines[k * 30 : k * 30 + 30]))}" for k in range(40)]
    (tmp_path / "books.tsv").write_text("\n".join(["head", *rows]))
    assert (
        main(["punctuation", "split", str(tmp_path / "books.txt"), str(tmp_path / "books.tsv"), "--out", str(tmp_path)])
        == 0
    )
    assert main(["punctuation", "score", str(tmp_path / "test.txt"), "--paragraphs", "2", "--limit", "2"]) == 0
    names = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[3:]]
    assert names == ["full stop at each segment", "0 words ahead", "16 words ahead"]
