"""The inputs of ../shared/cases that once failed: each gives what the README there says, through the command line or Python.

Hotwords, `align`, a stray lm.ngram and `--channels split` have tests of their own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from samba_asr.audio.read import info, read
from samba_asr.audio.resample import resample
from samba_asr.audio.source import Truncated
from samba_asr.cli import main
from samba_asr.config import load
from samba_asr.data.manifest import Utterance, read_manifest, write_manifest
from samba_asr.data.readers import read_corpus
from samba_asr.decoding.ngram import read_ngram
from samba_asr.errors import UserError
from samba_asr.metrics.wer import score
from samba_asr.recognizer import Recognizer
from samba_asr.session import Final, Quiet
from samba_asr.steps import advance
from tests.audio.sounds import encode_av
from tests.shared import needs_shared, shared
from tests.support.model_folder import SMALL_TRAINING as SMALL
from tests.training.toy import make_corpus

pytestmark = needs_shared("cases")

CASES = shared("cases") or Path("cases")
BASE = CASES / "base.wav"
TEXT = "THESE PEOPLE WILL ALSO BE SURPRISED THEY WILL SAY LORD"
FIRST = 0.6  # seconds into base.wav, where THESE begins
ROOT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")


@pytest.fixture(scope="module")
def english() -> Recognizer:
    return Recognizer.load("english", device="cpu")


@pytest.fixture
def command(english, monkeypatch, capsys):
    """command(*arguments) -> (status, out, err), without reading the model anew."""
    monkeypatch.setattr(
        "samba_asr.commands.transcribe.load_recognizer",
        lambda model, device, settings, **_: (
            Recognizer(english._loaded, load([], settings, folder=english.folder).decode) if settings else english
        ),
    )

    def command(*arguments) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


# --- the same words from every wrapping


@pytest.mark.parametrize("name", ["base.wav", "m_vbr_noxing.mp3", "s_inverted.wav"])
def test_the_whole_text_of_every_wrapping(english, caplog, name):
    result = english.transcribe(CASES / name)
    assert result.text == TEXT
    assert 4.8 < result.duration < 5.0
    assert 4.8 < info(CASES / name).duration < 5.0
    assert ("the channels cancel each other" in caplog.text) == (name == "s_inverted.wav")


@pytest.mark.parametrize("name", ["ao_late.mka", "ao_late.webm"])
def test_sound_that_begins_late_has_its_own_times(english, name):
    result = english.transcribe(CASES / name)
    assert result.text == TEXT
    assert result.words[0].start == pytest.approx(3 + FIRST, abs=0.1)


@pytest.mark.parametrize(("format", "codec"), [("matroska", "flac"), ("mp4", "aac"), ("webm", "libopus")])
def test_a_hole_in_the_time_stamps_and_a_picture_before_the_sound(english, format, codec):
    rate = 48000 if codec == "libopus" else 16000
    base, seconds = resample(read(BASE).samples, 16000, rate), read(BASE).duration
    samples = np.concatenate([base, base])[:, None]
    hole = english.transcribe(encode_av(samples, format, codec, rate, hole=(seconds, 4.0)))
    assert hole.text.split()[-len(TEXT.split()) :] == TEXT.split()
    second = hole.words[-len(TEXT.split())]
    assert second.start == pytest.approx(seconds + 4.0 + FIRST, abs=0.15)
    if format == "mp4":
        late = english.transcribe(encode_av(base[:, None], format, codec, rate, at=2.0, picture=7.0))
        assert late.words[0].start == pytest.approx(2.0 + FIRST, abs=0.15)


@pytest.mark.parametrize(("format", "codec"), [("flac", "flac"), ("mp3", "libmp3lame"), ("matroska", "aac")])
def test_of_a_file_that_is_cut_comes_the_text_before_and_its_true_position(english, tmp_path, format, codec):
    whole = encode_av(read(BASE).samples[:, None], format, codec, 16000)
    (tmp_path / "cut").write_bytes(whole[: len(whole) * 6 // 10])
    try:
        result = english.transcribe(tmp_path / "cut")  # an MP3 does not say how long it is
    except Truncated as error:
        result, (at,) = error.result, re.findall(r"([\d.]+) s were readable", str(error))
        assert 1.5 < float(at) < 4.5
    assert result.text.split()[:2] == ["THESE", "PEOPLE"]


@pytest.mark.parametrize("level", [-50, -46, -40, -32, -26, 12])
def test_speech_of_any_level_keeps_its_words(english, level):
    samples = np.round(read(BASE).samples * 10 ** (level / 20) * 32768).clip(-32768, 32767).astype(np.int16)
    report = score({"a": TEXT}, {"a": english.recognize(samples).text})
    assert report.wer <= (0.4 if level < -40 else 0.3)  # of ten words; 16 bits hold 5 of such speech
    if level == -40:
        np.testing.assert_allclose(read(CASES / "L40i16.wav").samples, samples / 32768, atol=2 / 32768)


# --- what is not sure


def test_words_before_a_cut_are_not_withheld_with_what_the_cut_made(english, command):
    status, out, _ = command("transcribe", "--text", "spoken", CASES / "cut1875.wav")
    assert (status, out.split()[:2]) == (0, ["THESE", "PEOPLE"])
    session = english.session(partials=False)
    samples = read(BASE).samples[:30000]
    session.feed(samples)
    session.flush("here")
    advance(english, [session])
    final, *others = session.events()
    assert isinstance(final, Final)
    assert final.segment.text.split()[:2] == ["THESE", "PEOPLE"]
    withheld = sum(event.withheld for event in others if isinstance(event, Quiet))
    free = Recognizer(english._loaded, load([], ["decode.endpoint.confidence=0"], folder=english.folder).decode)
    assert len(final.segment.words) + withheld == len(free.recognize(samples).words)  # what is not told is reported


def test_a_model_that_is_not_calibrated_has_no_bound_on_its_confidence(english, tmp_path, caplog):
    for file in english.folder.iterdir():
        if file.name != "confidence.json":
            (tmp_path / file.name).symlink_to(file)
    bound = ["decode.endpoint.confidence=0.9"]
    free = Recognizer.load(tmp_path, device="cpu", settings=bound)
    assert len(free.transcribe(CASES / "cut1875.wav").words) == 5
    assert f"decode.endpoint.confidence=0.9 is ignored: samba-asr calibrate --model {tmp_path}" in caplog.text
    bounded = Recognizer(english._loaded, load([], bound, folder=english.folder).decode)
    assert not bounded.transcribe(CASES / "cut1875.wav").words


# --- the command line


@posix
@pytest.mark.slow
def test_pipes_of_every_kind_and_a_full_disk(tmp_path):
    program = tmp_path / "samba.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from samba_asr.cli import main; sys.exit(main())"
    )
    script = (
        f'samba() {{ "{sys.executable}" "{program}" "$@"; }}; mkfifo fifo; cat "{BASE}" > fifo & '
        f'samba transcribe --text spoken --no-names - fifo <(cat "{BASE}") < "{BASE}"; '
        f'samba transcribe --text spoken /dev/stdin < "{BASE}"; '
        f'samba transcribe "{BASE}" > /dev/full'
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [TEXT] * 4
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


@posix
@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"a\tb\nc.wav"])
def test_a_name_in_any_bytes_before_a_good_file(command, tmp_path, name):
    shutil.copyfile(BASE, os.fsencode(tmp_path) + b"/" + name)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    status, out, err = command("transcribe", "--format", "ctm", odd, BASE)
    rows = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert {len(row) for row in rows} == {6}
    assert [row[4] for row in rows] == TEXT.split() * 2
    missing, out, err = command("transcribe", "--text", "spoken", odd + ".not", BASE)
    assert (missing, out, len(err.strip().splitlines())) == (1, f"{BASE}: {TEXT}\n", 2)


def test_settings_before_a_file_and_numbers_that_are_none(command):
    assert command("transcribe", "--text", "spoken", "--set", "decode.beam=24", BASE)[:2] == (0, TEXT + "\n")
    status, out, err = command("transcribe", "--latency-ms", "nan", BASE)
    assert (status, out, len(err.splitlines())) == (1, "", 1)


# --- Python


def test_samples_of_any_type_and_what_is_meant_by_them(english):
    samples = read(BASE).samples
    whole = (samples * 32768).round().clip(-32768, 32767).astype(np.int16)
    assert english.recognize(whole).text == english.transcribe(whole).text == TEXT
    with pytest.raises(UserError, match="divide them by the full scale"):
        english.recognize(whole.astype(np.float32))
    with pytest.raises(UserError, match="rate=0: give samples per second"):
        english.stream(rate=0)
    with pytest.raises(UserError, match="give them apart"):
        english.transcribe((samples, 16000))
    assert set(english.hotwords("SAY LORD").words) == {"SAY", "LORD"}


# --- data and scores


def test_a_table_of_a_spreadsheet_and_a_mark_before_the_first_id(tmp_path):
    (utterance,) = read_corpus(CASES / "bom_crlf.csv")
    assert (utterance.id, utterance.text) == ("u1", TEXT)
    row = json.dumps({"id": "u1", "audio": str(BASE), "text": TEXT})
    (tmp_path / "a.jsonl").write_text("\ufeff" + row + "\r\n", encoding="utf-8")
    assert [u.id for u in read_manifest(tmp_path / "a.jsonl")] == ["u1"]


@pytest.mark.parametrize("columns", [("start", "end"), ("offset", "duration")])
def test_rows_of_a_table_are_segments(tmp_path, columns):
    begin, length = 0.5, 1.5
    second = begin + length if columns[1] == "end" else length
    (tmp_path / "t.csv").write_text(f"path,{','.join(columns)},text\n{BASE},{begin},{second},THESE PEOPLE\n")
    (utterance,) = read_corpus(tmp_path / "t.csv")
    assert (utterance.start, utterance.duration) == (begin, length)


def test_texts_without_audio_are_counted_and_named(tmp_path, capsys):
    folder = tmp_path / "kaldi"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"u1 {BASE}\n")
    (folder / "text").write_text(f"u1 {TEXT}\nu2 LOST\nu3 LOST TOO\n")
    status = main(["prepare", str(folder), "--out", str(tmp_path / "data")])
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "u2" in said
    assert "2" in said
    assert "no problems" not in said
    assert status in (0, 1)


def test_numbers_that_differ_are_errors(tmp_path, capsys):
    (tmp_path / "ref").write_text("a pay 3500 dollars\n")
    (tmp_path / "hyp").write_text("a pay 9 dollars\n")
    files = ["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "hyp"), "--bootstrap", "0"]
    assert main(["score", *files, "--normalize", "upper"]) == 0
    assert not capsys.readouterr().out.startswith("%WER 0.00")


def test_language_models_are_right_or_refused(tmp_path):
    model = read_ngram(CASES / "pruned_prefix.arpa")
    context = tuple(model.ids[word] for word in ("<s>", "HELLO"))
    (found,), _ = model.score([context], [model.ids["WORLD"]])
    assert found / np.log(10) == pytest.approx(-0.2, abs=1e-6)
    with pytest.raises(UserError, match=r"nan1\.arpa, line 14"):
        read_ngram(CASES / "nan1.arpa")
    text = (CASES / "pruned_prefix.arpa").read_text()
    (tmp_path / "positive.arpa").write_text(text.replace("-0.4\tHELLO WORLD", "0.4\tHELLO WORLD"))
    with pytest.raises(UserError, match=r"positive\.arpa, line \d+"):
        read_ngram(tmp_path / "positive.arpa")
    (tmp_path / "empty.arpa").write_text(re.sub(r"\n-0.2\t.*", "", text).replace("ngram 3=1", "ngram 3=0"))
    assert read_ngram(tmp_path / "empty.arpa").ids.keys() >= {"HELLO", "WORLD"}


# --- training


def test_a_learning_rate_without_sense_is_no_success(tmp_path, capsys):
    make_corpus(tmp_path)
    sets = [f"data.{name}=[{tmp_path / 'corpus.jsonl'}]" for name in ("train", "valid")]
    status = main(["train", "--exp", str(tmp_path / "exp"), *SMALL, *sets, "optim.lr=1e30", "optim.warmup=0"])
    assert status == 1
    assert "lower optim.lr=1e+30" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "text"), [("digits", "one two nine"), pytest.param("english", TEXT.lower(), marks=pytest.mark.slow)]
)
def test_texts_in_small_letters_are_read_in_the_case_of_the_model(tmp_path, caplog, model, text):
    write_manifest(tmp_path / "train.jsonl", [Utterance("u1", str(BASE), text, duration=4.865)])
    settings = [f"data.train=[{tmp_path / 'train.jsonl'}]", "data.valid=[]", "data.weights=[]", "train.max_steps=1"]
    with caplog.at_level(logging.INFO):
        arguments = ["--init", model, *settings, "train.device=cpu", "train.epochs=1"]
        assert main(["train", "--exp", str(tmp_path / "exp"), *arguments]) == 0
    assert "the model writes capitals" in caplog.text
    assert "<unk>" not in caplog.text
