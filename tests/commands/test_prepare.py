"""samba-asr prepare."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import soundfile

from samba_asr.commands import prepare
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError


def run(*words) -> int:
    parser = argparse.ArgumentParser()
    prepare.add_parser(parser.add_subparsers())
    args = parser.parse_args(["prepare", *map(str, words)])
    return args.run(args)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = ["path,text,speaker"]
    for n in range(10):
        soundfile.write(folder / f"{n}.wav", np.zeros(8000), 8000)
        lines.append(f"{n}.wav,HELLO,s{n}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder


def test_a_folder_becomes_manifests(corpus, tmp_path, capsys):
    assert run(corpus, "--out", tmp_path / "data", "--split-by-speaker", "dev=0.2,test=0.1") == 0
    assert [len(read_manifest(tmp_path / "data" / f"{name}.jsonl")) for name in ("train", "dev", "test")] == [7, 2, 1]
    out = capsys.readouterr().out
    assert "train: 7 utterances, 7 speakers, 0.00 hours" in out
    assert out.endswith(f"{tmp_path}/data/test.jsonl\n")


def test_problems_are_reported_before_the_error(corpus, tmp_path, capsys):
    (corpus / "3.wav").unlink()
    with pytest.raises(UserError, match="1 missing file"):
        run(corpus, "--out", tmp_path / "data")
    assert "missing file: 1\n    train 3: " in capsys.readouterr().out
    assert run(corpus, "--out", tmp_path / "data", "--fix", "--no-kaldi") == 0
    assert len(read_manifest(tmp_path / "data" / "train.jsonl")) == 9
    assert (tmp_path / "data" / "dropped.tsv").read_text().startswith("id\tproblem\n3\tmissing file: ")


def test_texts_become_those_of_librispeech_on_request(corpus, tmp_path):
    table = (corpus / "table.csv").read_text().replace("0.wav,HELLO", '0.wav,"Hello, it\'s —me."')
    (corpus / "table.csv").write_text(table.replace("1.wav,HELLO", "1.wav,..."))
    assert run(corpus, "--out", tmp_path / "as-it-is") == 0
    assert read_manifest(tmp_path / "as-it-is/train.jsonl")[0].text == "Hello, it's —me."
    with pytest.raises(UserError, match="1 empty text"):  # what the rules leave nothing of is no transcript
        run(corpus, "--out", tmp_path / "upper", "--upper")
    assert run(corpus, "--out", tmp_path / "upper", "--upper", "--fix") == 0
    assert [u.text for u in read_manifest(tmp_path / "upper/train.jsonl")] == ["HELLO IT'S ME"] + 8 * ["HELLO"]


def test_numbers_become_words(corpus, tmp_path):
    (corpus / "table.csv").write_text((corpus / "table.csv").read_text().replace("0.wav,HELLO", "0.wav,Room 17"))
    assert run(corpus, "--out", tmp_path, "--upper") == 0
    assert read_manifest(tmp_path / "train.jsonl")[0].text == "ROOM SEVENTEEN"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["timit"], "'timit' is neither a recipe .* nor an existing path"),
        (["digits", "--subset", "a"], "--subset is only for the recipe librispeech"),
        (["digits", "--split-by-speaker", "dev=0.1"], "--split-by-speaker is only for a corpus given by its path"),
        (["digits", "--source", "/nowhere"], "no such manifest"),
        ([".", "--source", "x"], "--source is only for recipes"),
    ],
)
def test_what_does_not_go_together_is_refused(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(*words, "--out", tmp_path / "data")


def test_shares_are_read_or_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="write name=share"):
        run(corpus, "--out", tmp_path / "data", "--split-by-speaker", "0.1,0.2")
