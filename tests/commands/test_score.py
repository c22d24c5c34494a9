"""`samba-asr score`, from files to lines."""

from __future__ import annotations

import argparse
import gzip

import pytest

from samba_asr.commands import score
from samba_asr.errors import UserError


def command(*words) -> int:
    parser = argparse.ArgumentParser()
    score.add_parser(parser.add_subparsers())
    args = parser.parse_args(["score", *map(str, words)])
    return args.run(args)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ref").write_text("s1-a HE HOPED THERE\ns1-b A B\ns2-c\n")
    (tmp_path / "hyp").write_text("s1-a he hoped, there!\ns1-b a\ns2-c \n\n")
    (tmp_path / "hyp.trn").write_text("HE HOPED THERE (s1-a)\n (s2-c)\nA (s1-b)\n")
    (tmp_path / "ref.jsonl").write_text(
        '{"id": "s1-a", "audio": "a.wav", "text": "HE HOPED THERE", "speaker": "s1"}\n'
        '{"id": "s1-b", "audio": "b.wav", "text": "A B", "speaker": "s1"}\n'
        '{"id": "s2-c", "audio": "c.wav", "text": "", "speaker": "s2"}\n'
    )
    return tmp_path


EXPECTED = [
    "%WER 20.00 [ 1 / 5, 0 ins, 1 del, 0 sub ]",
    "%SER 33.33 [ 1 / 3 ]",
    "Scored 3 sentences, 0 not present in hyp.",
]


@pytest.mark.parametrize("ref", ["ref", "ref.jsonl"])
@pytest.mark.parametrize("hyp", ["hyp", "hyp.trn"])
def test_every_format_gives_the_same_score(files, capsys, ref, hyp):
    assert command("--ref", files / ref, "--hyp", files / hyp, "--normalize", "upper") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == EXPECTED
    assert lines[3].startswith("95 % interval [ 0.00, ")
    assert lines[4] == "normalized by: upper"


def test_the_two_files_need_no_options(files, capsys):
    for words in (["ref", "hyp.trn"], ["ref", "--hyp", "hyp.trn"], ["hyp.trn", "--ref", "ref"]):
        assert command(*(files / w if "--" not in w else w for w in words)) == 0
        assert capsys.readouterr().out.splitlines()[:3] == EXPECTED
    for words in ([], ["ref"], ["ref", "hyp", "hyp"], ["ref", "--ref", "ref", "--hyp", "hyp"]):
        with pytest.raises(UserError, match=r"samba-asr score ref\.txt hyp\.txt"):
            command(*(files / w if "--" not in w else w for w in words))


def test_beside_a_baseline(files, capsys):
    (files / "worse").write_text("s1-a HE HOPED\ns1-b C\n")
    command("--ref", files / "ref", "--hyp", files / "hyp.trn", "--baseline", files / "worse")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == EXPECTED
    assert lines[-2] == f"{files / 'worse'}: %WER 60.00 [ 3 / 5, 0 ins, 2 del, 1 sub ]"
    assert lines[-1].startswith("difference -40.00, 95 % interval [ -5")
    assert lines[-1].endswith(
        f"{files / 'hyp.trn'} is better in 96.2 % of the samples"
    )  # 26 of 27: s2-c alone tells nothing
    (files / "other").write_text("x A\n")
    with pytest.raises(UserError, match=r"no id of .*other .*give files of the same utterances"):
        command("--ref", files / "ref", "--hyp", files / "hyp", "--baseline", files / "other")


def test_gzip(files, capsys):
    (files / "hyp.trn.gz").write_bytes(gzip.compress((files / "hyp.trn").read_bytes()))
    command("--ref", files / "ref", "--hyp", files / "hyp.trn.gz", "--bootstrap", 0)
    assert capsys.readouterr().out.splitlines() == [*EXPECTED, "normalized by: none"]


def test_out_and_speakers(files, capsys):
    (files / "utt2spk").write_text("s1-a tom\ns1-b ann\ns2-c tom\n")
    files_in = ("--ref", files / "ref", "--hyp", files / "hyp.trn", "--utt2spk", files / "utt2spk")
    command(*files_in, "--by-speaker", "--cer", "--out", files / "out")
    assert "samples of speakers" in capsys.readouterr().out
    assert (files / "out/wer.txt").read_text().startswith("%CER 11.76 [ 2 / 17,")
    assert "tom 0.00 [ 0 / 14" in (files / "out/wer.txt").read_text()


def test_its_own_trn_pair_scores_the_same(files, capsys):
    command("--ref", files / "ref.jsonl", "--hyp", files / "hyp.trn", "--out", files / "out")
    first = capsys.readouterr().out
    command("--ref", files / "out/ref.trn", "--hyp", files / "out/hyp.trn")
    assert capsys.readouterr().out == first


def test_ids_that_do_not_fit_are_told(files, capsys):
    (files / "hyp").write_text("s1-a HE HOPED THERE\nother A\n")
    command("--ref", files / "ref", "--hyp", files / "hyp")
    out = capsys.readouterr().out
    assert "Scored 3 sentences, 2 not present in hyp." in out
    assert "not scored: 1 ids" in out
    assert "such as other" in out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("hyp", b"a X\nb Y\na Z\n", r"hyp:3: id 'a' occurs twice"),
        ("hyp.trn", b"A (a)\nB b\n", r"hyp.trn:2: not a .trn line"),
        ("hyp.jsonl", b'{"id": "a", "text": ""}\n{"id": \n', r"hyp.jsonl:2: not JSON"),
        ("hyp.jsonl", b'{"id": "a"}\n', r'hyp.jsonl:1: a line needs "id" and "text"'),
        ("hyp.jsonl", b'{"id": "a", "text": 7}\n', r"hyp.jsonl:1: .* strings"),
        ("hyp.jsonl", b"[]\n", r"hyp.jsonl:1: a line needs"),
        ("hyp", b"a \xff\n", r"hyp: not UTF-8"),
        ("hyp", b"q A\n", r"no id of .*hyp \(such as 'q'\) is in .*ref"),
        ("hyp.gz", b"not gzip", r"hyp.gz: cannot read it"),
    ],
)
def test_bad_files_are_named_with_their_line(files, name, content, message):
    (files / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        command("--ref", files / "ref", "--hyp", files / name)


def test_bad_options(files):
    with pytest.raises(UserError, match=r"nowhere: cannot read it \(No such file"):
        command("--ref", files / "nowhere", "--hyp", files / "hyp")
    with pytest.raises(UserError, match="--bootstrap -1"):
        command("--ref", files / "ref", "--hyp", files / "hyp", "--bootstrap", -1)
    (files / "empty").write_text("")
    with pytest.raises(UserError, match="no references"):
        command("--ref", files / "empty", "--hyp", files / "empty")


def test_numbers_that_differ_are_an_error_in_scoring(tmp_path, capsys):
    (tmp_path / "ref").write_text("a pay 3500 dollars\n")
    (tmp_path / "hyp").write_text("a pay 9 dollars\n")
    command("--ref", tmp_path / "ref", "--hyp", tmp_path / "hyp", "--normalize", "upper", "--bootstrap", 0)
    assert not capsys.readouterr().out.startswith("%WER 0.00")


def test_digits_that_are_not_spoken_are_told(tmp_path, capsys):
    (tmp_path / "ref").write_text("a the W3C pays\n")
    command("--ref", tmp_path / "ref", "--hyp", tmp_path / "ref", "--normalize", "upper", "--bootstrap", 0)
    assert "digits are scored as written in 1 texts, such as a" in capsys.readouterr().out


def test_a_script_that_rules_drop_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(score, "normalizer", lambda name: lambda text: "".join(c for c in text if c.isascii()))
    (tmp_path / "ref").write_text("a ONE мир\nb TWO\n")
    command("--ref", tmp_path / "ref", "--hyp", tmp_path / "ref", "--normalize", "whisper", "--bootstrap", 0)
    assert "whisper dropped digits or letters of 1 texts, such as a" in capsys.readouterr().out
