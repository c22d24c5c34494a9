"""From sets to files, and cutting a corpus into sets."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.data.prepare import PrepareOptions, by_split, split_by_speaker, write_splits
from samba_asr.errors import UserError


@pytest.fixture
def splits(tmp_path):
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.flac", np.zeros(8000), 8000)
    a, b, c = (Utterance(name, str(tmp_path / f"{name}.flac"), "HI", name) for name in "abc")
    return {"train": [a, b], "test": [c]}


def test_good_sets_become_manifests_and_kaldi_folders(splits, tmp_path):
    manifests = write_splits(splits, tmp_path / "data")
    assert manifests == {name: tmp_path / "data" / f"{name}.jsonl" for name in ("train", "test")}
    train = read_manifest(manifests["train"])
    assert [(u.id, u.duration, u.rate, u.split) for u in train] == [
        ("a", 1.0, 8000, "train"),
        ("b", 1.0, 8000, "train"),
    ]
    assert (tmp_path / "data" / "test" / "text").read_text() == "c HI\n"
    assert (tmp_path / "data" / "report.txt").read_text().endswith("no problems\n")


def test_problems_are_an_error_and_only_the_report_is_written(splits, tmp_path):
    splits["train"].append(Utterance("gone", "/nowhere.wav", ""))
    with pytest.raises(UserError, match=r"1 missing file, 1 empty text\): read .*report\.txt"):
        write_splits(splits, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["report.txt"]


def test_the_fix_leaves_them_out_and_lists_them(splits, tmp_path):
    splits["train"].append(Utterance("gone", "/nowhere.wav", ""))
    manifests = write_splits(splits, tmp_path / "data", PrepareOptions(fix=True, kaldi=False))
    assert [u.id for u in read_manifest(manifests["train"])] == ["a", "b"]
    dropped = (tmp_path / "data" / "dropped.tsv").read_text()
    assert dropped == "id\tproblem\ngone\tmissing file: /nowhere.wav; empty text: no transcript\n"
    assert "1 utterances left out" in (tmp_path / "data" / "report.txt").read_text()
    assert not (tmp_path / "data" / "train").exists()


def test_decoding_finds_what_headers_do_not_tell(splits, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(tmp_path / "a.flac", noise, 8000)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[: len(data) // 2])
    write_splits(splits, tmp_path / "data")
    with pytest.raises(UserError, match="1 unreadable audio"):
        write_splits(splits, tmp_path / "data", PrepareOptions(decode=True))


def test_sets_are_the_corpus_s_own():
    utterances = [Utterance("a", "/a", split="dev"), Utterance("b", "/b"), Utterance("c", "/c", split="dev")]
    assert {name: [u.id for u in us] for name, us in by_split(utterances).items()} == {
        "dev": ["a", "c"],
        "train": ["b"],
    }


@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=20), seed=st.integers(0, 9))
def test_no_speaker_is_in_two_sets_and_no_utterance_is_lost(sizes, seed):
    utterances = [Utterance(f"{s}-{n}", "/a", speaker=f"{s}") for s, size in enumerate(sizes) for n in range(size)]
    splits = split_by_speaker(utterances, {"dev": 0.1, "test": 0.2}, seed=seed)
    speakers = {name: {u.speaker for u in us} for name, us in splits.items()}
    assert all(speakers.values())
    assert sum(map(len, speakers.values())) == len(sizes)
    assert sorted(u.id for us in splits.values() for u in us) == sorted(u.id for u in utterances)
    assert splits == split_by_speaker(utterances, {"dev": 0.1, "test": 0.2}, seed=seed)


def test_shares_are_about_met():
    utterances = [Utterance(f"{n}", "/a", speaker=f"{n % 100}") for n in range(1000)]
    splits = split_by_speaker(utterances, {"dev": 0.1, "test": 0.2})
    assert {name: len(us) for name, us in splits.items()} == {"train": 700, "dev": 100, "test": 200}


@pytest.mark.parametrize(
    ("shares", "speakers", "message"),
    [
        ({"dev": 0.1}, ["s"], "1 speakers cannot be divided into 2 sets"),
        ({"dev": 0.1}, ["s", ""], "have no speaker"),
        ({"dev": 1.0}, ["s", "t"], "below 1"),
        ({"train": 0.5}, ["s", "t"], "besides train"),
    ],
)
def test_what_cannot_be_cut_is_refused(shares, speakers, message):
    with pytest.raises(UserError, match=message):
        split_by_speaker([Utterance(f"u{n}", "/a", speaker=s) for n, s in enumerate(speakers)], shares)
