"""Files about a score."""

from __future__ import annotations

import pytest

from samba_asr.errors import UserError
from samba_asr.metrics.report import alignment_lines, confusions, plot_breakdown, write_report
from samba_asr.metrics.wer import score


@pytest.fixture
def report():
    return score(
        {"1089-1": "HE HOPED THERE", "1089-2": "A B A B", "x": "", "gone": "A"},
        {"1089-1": "SHE HOPED", "1089-2": "A C A C", "x": "OH"},
        speakers={"1089-1": "1089", "1089-2": "1089", "x": "7"},
    )


def test_alignment_lines_stand_in_columns(report):
    assert alignment_lines(report.utterances[0]) == [
        "1089-1  3 words, 0 ins, 1 del, 1 sub",
        "REF: HE  HOPED THERE",
        "HYP: SHE HOPED ***",
        "OPS: S         D",
        "",
    ]
    assert alignment_lines(report.utterances[3])[0] == "gone  1 words, 0 ins, 1 del, 0 sub  (not present in hyp)"
    assert alignment_lines(score({"e": ""}, {"e": ""}).utterances[0])[1:] == ["REF:", "HYP:", "OPS:", ""]


def test_confusions_commonest_first(report):
    found = confusions(report)
    assert found.substitutions == ((("B", "C"), 2), (("HE", "SHE"), 1))
    assert found.deletions == (("A", 1), ("THERE", 1))
    assert found.insertions == (("OH", 1),)
    assert confusions(report, most=1).deletions == (("A", 1),)


def test_written_files(report, tmp_path):
    names = [path.name for path in write_report(report, tmp_path / "out")]
    assert names == ["wer.txt", "alignments.txt", "confusions.txt", "ref.trn", "hyp.trn"]
    read = {name: (tmp_path / "out" / name).read_text().splitlines() for name in names}
    assert read["ref.trn"] == ["HE HOPED THERE (1089-1)", "A B A B (1089-2)", "(7-x)", "A (gone)"]
    assert read["hyp.trn"] == ["SHE HOPED (1089-1)", "A C A C (1089-2)", "OH (7-x)", "(gone)"]
    assert read["wer.txt"][0] == "%WER 75.00 [ 6 / 8, 1 ins, 2 del, 3 sub ]"
    assert "1089 57.14 [ 4 / 7, 0 ins, 1 del, 3 sub ]" in read["wer.txt"]
    assert "     2  B -> C" in read["confusions.txt"]
    assert len(read["alignments.txt"]) == 4 * 5


def test_characters_are_joined_in_trn_and_spaces_are_shown_in_alignments(tmp_path):
    report = score({"u": "A B"}, {"u": "AB"}, unit="character")
    write_report(report, tmp_path)
    assert (tmp_path / "ref.trn").read_text() == "A B (u)\n"
    assert "REF: A ▁   B" in (tmp_path / "alignments.txt").read_text()


def test_trn_refuses_ids_it_cannot_hold(tmp_path):
    with pytest.raises(UserError, match=r"'u\(1\)'"):
        write_report(score({"u(1)": "A"}, {}), tmp_path)


@pytest.mark.parametrize("speakers", [{}, {"a": "s1", "b": "s2"}])
def test_plot(tmp_path, speakers):
    pytest.importorskip("matplotlib")
    path = plot_breakdown(
        score({"a": "A B", "b": ""}, {"a": "A", "b": "C"}, speakers=speakers), tmp_path / "new" / "w.png"
    )
    assert path.read_bytes().startswith(b"\x89PNG")
