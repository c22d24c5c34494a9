"""Error rates: Kaldi's lines, empty and missing texts, and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.errors import UserError
from samba_asr.metrics.wer import Aligned, ErrorCounts, WerReport, bootstrap, compare, score, total

texts = st.lists(st.sampled_from(["A", "B", "C", "D"]), max_size=7).map(" ".join)


def one(ref: str, hyp: str) -> ErrorCounts:
    return score({"u": ref}, {"u": hyp}).counts


def test_kaldi_lines_are_kaldis_to_the_letter():
    wrong = Aligned("w", (("A", "B"),) * 3337 + (("A", None),) * 427 + ((None, "B"),) * 695 + (("A", "A"),) * 50638)
    right = Aligned("r", ())
    report = WerReport((wrong, *[right] * 7))
    assert report.kaldi_lines() == [
        "%WER 8.20 [ 4459 / 54402, 695 ins, 427 del, 3337 sub ]",
        "%SER 12.50 [ 1 / 8 ]",
        "Scored 8 sentences, 0 not present in hyp.",
    ]


@pytest.mark.parametrize(
    ("ref", "hyp", "expected"),
    [
        ("A B C", "A B C", ErrorCounts(3, 0, 0, 0, 1, 0)),
        ("A B C", "A X C", ErrorCounts(3, 0, 0, 1, 1, 1)),
        ("A B C", "A C", ErrorCounts(3, 0, 1, 0, 1, 1)),
        ("A C", "A B C", ErrorCounts(2, 1, 0, 0, 1, 1)),
        ("", "", ErrorCounts(0, 0, 0, 0, 1, 0)),
        ("", "A B", ErrorCounts(0, 2, 0, 0, 1, 1)),
        ("A B", "", ErrorCounts(2, 0, 2, 0, 1, 1)),
        ("A\t B\n", " A  B", ErrorCounts(2, 0, 0, 0, 1, 0)),
        ("a", "A", ErrorCounts(1, 0, 0, 1, 1, 1)),  # nothing is normalised
    ],
)
def test_counts(ref, hyp, expected):
    assert one(ref, hyp) == expected


def test_rates_without_words():
    assert one("", "").wer == 0.0
    assert one("", "A").wer == float("inf")
    assert ErrorCounts().ser == 0.0


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_edits_are_fewest_and_the_alignment_holds_both_texts(pairs):
    kaldialign = pytest.importorskip("kaldialign")
    report = score({str(i): r for i, (r, _) in enumerate(pairs)}, {str(i): h for i, (_, h) in enumerate(pairs)})
    for u, (ref, hyp) in zip(report.utterances, pairs, strict=True):
        assert u.reference == tuple(ref.split())
        assert u.hypothesis == tuple(hyp.split())
        assert u.counts.errors == kaldialign.edit_distance(ref.split(), hyp.split())["total"]
    assert report.counts == total(u.counts for u in report.utterances)


def test_missing_hypotheses_are_deletions_and_reported():
    report = score({"a": "A B", "b": "C", "c": ""}, {"a": "A B", "x": "E"})
    assert report.counts == ErrorCounts(3, 0, 1, 0, 3, 1)
    assert report.missing == ("b", "c")
    assert report.unknown == ("x",)
    assert report.kaldi_lines()[-1] == "Scored 3 sentences, 2 not present in hyp."


def test_characters_count_spaces():
    report = score({"u": "AB C", "e": ""}, {"u": "ABC", "e": "X"}, unit="character")
    assert report.counts == ErrorCounts(4, 1, 1, 0, 2, 2)
    assert report.kaldi_lines()[0] == "%CER 50.00 [ 2 / 4, 1 ins, 1 del, 0 sub ]"


def test_speakers():
    report = score(
        {"a": "A", "b": "A B", "c": "A"}, {"a": "A", "b": "A", "c": "B"}, speakers={"a": "s1", "b": "s1", "c": "s2"}
    )
    assert report.by_speaker() == {"s1": ErrorCounts(3, 0, 1, 0, 2, 1), "s2": ErrorCounts(1, 0, 0, 1, 1, 1)}
    assert score({"a": "A"}, {}).by_speaker() == {}


def test_bad_input():
    with pytest.raises(UserError, match="no references"):
        score({}, {"a": "A"})
    with pytest.raises(UserError, match="unknown unit 'phone'"):
        score({"a": "A"}, {"a": "A"}, unit="phone")


def noisy(n: int, speakers: int = 10, seed: int = 0) -> WerReport:
    """A test set whose errors go by speaker: the first speaks clearly, the last hardly."""
    rng = np.random.default_rng(seed)
    refs = {f"u{i}": " ".join(rng.choice(list("ABCDEFG"), rng.integers(1, 20))) for i in range(n)}
    who = {f"u{i}": f"s{i % speakers}" for i in range(n)}
    spoil = {f"s{i}": 0.04 * i for i in range(speakers)}
    hyps = {i: " ".join("X" if rng.random() < spoil[who[i]] else w for w in r.split()) for i, r in refs.items()}
    return score(refs, hyps, speakers=who)


def test_bootstrap_agrees_with_kaldialign():
    kaldialign = pytest.importorskip("kaldialign")
    report = noisy(300)
    low, high = bootstrap(report, samples=4000)
    expected = kaldialign.bootstrap_wer_ci(
        [u.reference for u in report.utterances], [u.hypothesis for u in report.utterances], replications=4000
    )
    assert low < report.wer < high
    assert low == pytest.approx(expected["ci95min"], abs=0.1 * (high - low))
    assert high == pytest.approx(expected["ci95max"], abs=0.1 * (high - low))


def test_bootstrap_is_seeded_and_ordered():
    report = noisy(50)
    assert bootstrap(report, 200, seed=1) == bootstrap(report, 200, seed=1) != bootstrap(report, 200, seed=2)
    assert bootstrap(report, 200, level=0.5)[1] < bootstrap(report, 200)[1]


def test_drawing_speakers_is_wider_where_errors_go_by_speaker():
    report = noisy(300)
    narrow, wide = bootstrap(report), bootstrap(report, by_speaker=True)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


def mended(report: WerReport, share: float) -> WerReport:
    """The same, but that `share` of the wrong words are right."""
    rng = np.random.default_rng(1)
    heard = {
        u.id: " ".join(ref if ref == hyp or rng.random() < share else hyp for ref, hyp in u.pairs)
        for u in report.utterances
    }
    said = {u.id: " ".join(u.reference) for u in report.utterances}
    return score(said, heard, speakers={u.id: u.speaker for u in report.utterances})


def test_a_comparison_sees_what_intervals_do_not():
    before = noisy(300)
    after = mended(before, 0.1)
    assert bootstrap(after)[1] > bootstrap(before)[0]  # they overlap
    found = compare(after, before)
    assert found.low <= found.difference <= found.high < 0
    assert found.better == 1
    back = compare(before, after)
    assert (back.difference, back.low, back.high, back.better) == (-found.difference, -found.high, -found.low, 0)
    assert compare(before, before) == (0, 0, 0, 0)
    assert compare(after, before, by_speaker=True).high < 0


def test_a_comparison_agrees_with_kaldialign():
    kaldialign = pytest.importorskip("kaldialign")
    before = noisy(100)
    after = mended(before, 0.02)
    refs = [u.reference for u in before.utterances]
    hyps = ([u.hypothesis for u in report.utterances] for report in (before, after))
    expected = kaldialign.bootstrap_wer_ci(refs, *hyps, replications=4000)
    assert compare(after, before, 4000).better == pytest.approx(expected["p_s2_improv_over_s1"], abs=0.05)


def test_only_systems_on_the_same_references_are_compared():
    with pytest.raises(UserError, match="the references of the two systems differ"):
        compare(score({"a": "A B"}, {"a": "A"}), score({"a": "A C"}, {"a": "A"}))


def test_bootstrap_edges():
    assert bootstrap(score({"a": "A B"}, {"a": "A"}), 10) == (0.5, 0.5)
    assert bootstrap(score({"a": ""}, {"a": ""}), 10) == (0.0, 0.0)
    assert bootstrap(score({"a": "", "b": "A"}, {"a": "B", "b": "A"}), 100)[1] == float("inf")
    with pytest.raises(UserError, match="needs speakers"):
        bootstrap(score({"a": "A"}, {}), by_speaker=True)
    with pytest.raises(UserError, match="samples=0"):
        bootstrap(score({"a": "A"}, {}), 0)
