"""Pseudo-labels: what a model reads where it is sure, made once."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
import torch

from samba_asr.commands import augment
from samba_asr.data.manifest import read_manifest, write_manifest
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from tests.commands.test_decode import make_model
from tests.training.toy import make_corpus


@pytest.fixture
def place(tmp_path):
    torch.set_num_threads(1)
    make_corpus(tmp_path)
    make_model(tmp_path / "model")
    return tmp_path


def call(place, *more) -> int:
    parser = argparse.ArgumentParser()
    augment.add_parser(parser.add_subparsers())
    words = [place / "corpus.jsonl", "--out", place / "out.jsonl", "--model", place / "model", "--device", "cpu", *more]
    args = parser.parse_args(["augment", "label", *map(str, words)])
    return args.run(args)


def test_texts_are_the_recognisers_and_come_with_their_error(place, capsys):
    assert call(place, "--confidence", 0, "--shortest", 1) == 0
    utterances, found = read_manifest(place / "corpus.jsonl"), read_manifest(place / "out.jsonl")
    recognizer = Recognizer.load(place / "model", device="cpu")
    texts = {u.id: recognizer.transcribe(u.audio).text for u in utterances}
    assert {u.id: u.text for u in found} == {name: text for name, text in texts.items() if text}
    assert all(u.duration and u.audio for u in found)
    assert f"{len(found)} of {len(utterances)} utterances" in (out := capsys.readouterr().out)
    assert "which have texts" in out


def test_they_are_made_once_and_selected_anew(place, monkeypatch):
    call(place, "--confidence", 0, "--shortest", 1)
    cache = place / "out.jsonl.labels.jsonl"
    by, *lines = [json.loads(line) for line in cache.read_text().splitlines()]
    cache.write_text("".join(json.dumps(line) + "\n" for line in [by, *lines[:-2]]))  # interrupted
    heard = []
    stream = Recognizer.stream
    monkeypatch.setattr(Recognizer, "stream", lambda self, *args, **more: heard.append(1) or stream(self, *args, **more))
    sure = sorted(line["confidence"] for line in lines)
    call(place, "--confidence", sure[-2], "--shortest", 1)
    assert len(heard) == 2
    found = {u.id for u in read_manifest(place / "out.jsonl")}
    assert found == {line["id"] for line in lines if line["confidence"] >= sure[-2]}


def test_what_cannot_be(place):
    with pytest.raises(UserError, match="from 0 to 1"):
        call(place, "--confidence", 2)
    with pytest.raises(UserError, match="is as sure as --confidence 1"):
        call(place, "--confidence", 1)
    with pytest.raises(UserError, match="of another model or search"):
        call(place, "--set", "decode.method=beam")
    (place / "out.jsonl.labels.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="not a label: delete the file"):
        call(place)


def test_audio_that_cannot_be_read_is_left_out(place, caplog):
    utterances = read_manifest(place / "corpus.jsonl")
    broken = place / "broken.wav"
    broken.write_bytes(b"RIFF")
    bad = replace(utterances[0], id="broken", audio=str(broken), duration=1.0, rate=16000)
    write_manifest(place / "corpus.jsonl", [bad, *utterances[1:3]])
    call(place, "--confidence", 0, "--shortest", 1)
    assert "broken is left out" in caplog.text
    assert "broken" not in {u.id for u in read_manifest(place / "out.jsonl")}
