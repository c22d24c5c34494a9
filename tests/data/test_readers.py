"""Corpora in the usual layouts become the same utterances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from samba_asr.audio.read import AudioError, AudioInfo
from samba_asr.data.durations import read_headers, with_durations
from samba_asr.data.manifest import Utterance
from samba_asr.data.readers import read_corpus
from samba_asr.errors import UserError
from tests.shared import needs_shared, shared


def sound(path: Path, seconds: float = 0.5, rate: int = 8000) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * rate)), rate)
    return str(path)


# Texts beside recordings


def test_the_folder_of_a_pair_is_its_speaker_and_a_text_alone_is_counted(tmp_path, caplog):
    sound(tmp_path / "anne" / "1.wav")
    sound(tmp_path / "2.wav")
    sound(tmp_path / "3.wav")
    (tmp_path / "anne/1.lab").write_text("\ufeffHello,\r\n  it's me\n", encoding="utf-8")
    (tmp_path / "2.txt").write_text("two")
    (tmp_path / "lost.txt").write_text("three")
    found = read_corpus(tmp_path)
    assert [(u.id, u.text, u.speaker) for u in found] == [
        ("2", "two", ""),
        ("3", "", ""),  # `validate` reports it
        ("anne-1", "Hello, it's me", "anne"),
    ]
    assert "1 texts have no audio beside them, such as lost.txt" in caplog.text
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("no audio")
    with pytest.raises(UserError, match="not recognized"):
        read_corpus(tmp_path / "other")


# LibriSpeech


@pytest.fixture
def split(tmp_path) -> Path:
    root = tmp_path / "LibriSpeech" / "dev-x"
    for name in ("84/121/84-121-0000.flac", "84/121/84-121-0001.wav", "9/7/9-7-0000.flac", "10/1/10-1-0000.ogg"):
        sound(root / name)
    (root / "84/121/84-121.trans.txt").write_text("84-121-0000 GO  ON\n84-121-0001 IT'S\n84-121-0002 LOST\n")
    (root / "9/7/9-7.trans.txt").write_text("9-7-0000 NINE\n")
    return root


def test_a_librispeech_split(split):
    utterances = read_corpus(split)
    assert [(u.id, u.text, u.speaker, u.split) for u in utterances] == [
        ("9-7-0000", "NINE", "9", "dev-x"),
        ("10-1-0000", "", "10", "dev-x"),  # no transcript
        ("84-121-0000", "GO  ON", "84", "dev-x"),  # as the corpus writes it
        ("84-121-0001", "IT'S", "84", "dev-x"),
        ("84-121-0002", "LOST", "84", "dev-x"),  # no audio: `validate` says so
    ]
    assert [Path(u.audio).exists() for u in utterances] == [True, True, True, True, False]


def test_a_librispeech_folder_of_splits(split):
    sound(split.parent / "test-x" / "3" / "4" / "3-4-0000.flac")
    assert {u.split for u in read_corpus(split.parent)} == {"dev-x", "test-x"}


def test_a_second_transcript_is_an_error(split):
    with open(split / "9/7/9-7.trans.txt", "a") as file:
        file.write("9-7-0000 AGAIN\n")
    with pytest.raises(UserError, match=r"9-7\.trans\.txt:2: 9-7-0000 has a second transcript"):
        read_corpus(split)


# Kaldi


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(text)
    return folder


def test_a_kaldi_folder(tmp_path):
    wav = sound(tmp_path / "d" / "my a.wav")
    folder = kaldi(tmp_path / "d", wav_scp=f"a {wav}\nb my a.wav\n", text="a ONE TWO\nb\n", utt2spk="a s1\nb s2\n")
    assert read_corpus(folder) == [Utterance("a", wav, "ONE TWO", "s1"), Utterance("b", wav, "", "s2")]
    assert read_corpus(folder / "wav.scp") == read_corpus(folder)


def test_kaldi_segments(tmp_path):
    folder = kaldi(tmp_path / "d", wav_scp="r /x/r.wav\n", text="a HI\n", segments="a r 1.5 2.75\nb r 3 -1\n")
    assert read_corpus(folder) == [
        Utterance("a", "/x/r.wav", "HI", duration=1.25, start=1.5),
        Utterance("b", "/x/r.wav", "", duration=None, start=3.0),
    ]


def test_a_command_in_wav_scp_is_never_run(tmp_path):
    trap = tmp_path / "trap"
    for command in (f"touch {trap} |", f"| touch {trap}", f"flac -dc x.flac; touch {trap} |"):
        with pytest.raises(UserError, match=r"wav\.scp:1: .* is a command, and commands in data are never run"):
            read_corpus(kaldi(tmp_path / "d", wav_scp=f"a {command}\n"))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav_scp": "a x.ark:123\n"}, "wav.scp:1: .* is in an archive"),
        ({"wav_scp": "a x.wav\na y.wav\n"}, "wav.scp:2: 'a' occurs twice"),
        ({"wav_scp": "a x.wav\n", "segments": "u a 2.0 1.0\n"}, "segments:1: .*the end must come after the start"),
        ({"wav_scp": "a x.wav\n", "segments": "u a two 3\n"}, "segments:1: .* is not a segment: write "),
        ({"wav_scp": "a x.wav\n", "segments": "u b 0 1\n"}, "segments:1: the recording 'b' is not in wav.scp"),
        ({"wav_scp": ""}, "holds no utterances"),
    ],
)
def test_kaldi_errors_name_file_and_line(tmp_path, files, message):
    with pytest.raises(UserError, match=message):
        read_corpus(kaldi(tmp_path / "d", **files))


# Tables


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "a.wav,Hello there\nb.wav,So\n"),
        ("t.csv", "\ufeffpath,text\r\na.wav,Hello there\r\n\r\nb.wav,So\r\n"),
        ("t.csv", 'sentence;client_id;path\n"Hello there";;a.wav\nSo;;b.wav\n'),
        ("t.tsv", "text\tpath\nHello there\ta.wav\nSo\tb.wav\n"),
        ("t.txt", "a.wav|Hello there\nb.wav|So\n"),
    ],
)
def test_tables_with_and_without_a_header(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    wavs = [sound(tmp_path / "a.wav"), sound(tmp_path / "b.wav")]
    assert read_corpus(tmp_path / name) == [Utterance("a", wavs[0], "Hello there"), Utterance("b", wavs[1], "So")]


def test_a_table_of_all_columns_and_audio_in_clips(tmp_path):
    wav = sound(tmp_path / "clips" / "my a.wav")
    (tmp_path / "t.tsv").write_text('id\tpath\ttext\tspeaker\tsplit\n\tmy a.wav\tSay "a"\ts\tdev\nx\t/y.wav\tB\t\t\n')
    assert read_corpus(tmp_path) == [Utterance("my_a", wav, 'Say "a"', "s", split="dev"), Utterance("x", "/y.wav", "B")]


def test_table_errors(tmp_path):
    (tmp_path / "a.csv").write_text("text,speaker\nhi,s\n")
    with pytest.raises(UserError, match=r"a\.csv:1: no column of audio paths"):
        read_corpus(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("path,text\na.wav,x\n,hi\n")
    with pytest.raises(UserError, match=r"b\.csv:3: no audio path"):
        read_corpus(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_bytes(b"path,text\na.wav,caf\xe9\n")
    with pytest.raises(UserError, match=r"c\.csv: .*not UTF-8"):
        read_corpus(tmp_path / "c.csv")
    with pytest.raises(UserError, match="3 tables"):
        read_corpus(tmp_path, format="table")


def test_ljspeech(tmp_path):
    wav = sound(tmp_path / "wavs" / "LJ1.wav")
    (tmp_path / "metadata.csv").write_text('LJ1|In 1456, "it" was|In fourteen, "it" was\nLJ2|Gone\n')
    missing = str(tmp_path / "wavs" / "LJ2.wav")
    expected = [Utterance("LJ1", wav, 'In fourteen, "it" was', "LJ"), Utterance("LJ2", missing, "Gone", "LJ")]
    assert read_corpus(tmp_path) == expected


# Names that say it all


def test_fsdd(tmp_path):
    for name in ("7_jo_4.wav", "0_jo_5.wav", "notes.wav"):
        sound(tmp_path / "recordings" / name)
    expected = [("0_jo_5", "ZERO", "jo", "train"), ("7_jo_4", "SEVEN", "jo", "test")]
    assert [(u.id, u.text, u.speaker, u.split) for u in read_corpus(tmp_path)] == expected
    assert read_corpus(tmp_path / "recordings") == read_corpus(tmp_path)


# What is nothing of this


def test_an_unknown_layout_an_unknown_format_and_a_missing_path(tmp_path):
    with pytest.raises(UserError, match="the format of this corpus is not recognized"):
        read_corpus(tmp_path)
    with pytest.raises(UserError, match="format 'lhotse': give one of auto, jsonl"):
        read_corpus(tmp_path, format="lhotse")
    with pytest.raises(UserError, match="no such file or folder"):
        read_corpus(tmp_path / "x")


# Durations


def test_durations_come_from_headers_and_stated_ones_stay(tmp_path):
    a, b = sound(tmp_path / "a.wav", 2.0), sound(tmp_path / "b.wav", 1.0, 16000)
    utterances = [Utterance("1", a), Utterance("2", a, start=0.5), Utterance("3", b, duration=0.25, start=0.5)]
    calls = []
    filled = with_durations(utterances, workers=2, progress=lambda *call: calls.append(call))
    assert [(u.duration, u.rate) for u in filled] == [(2.0, 8000), (1.5, 8000), (0.25, 16000)]
    assert calls == [(1, 2), (2, 2)]
    assert with_durations(filled, progress=lambda *call: pytest.fail("measured again")) == filled


def test_an_unreadable_header_is_raised_or_collected(tmp_path):
    utterances = [Utterance("1", sound(tmp_path / "a.wav")), Utterance("2", str(tmp_path / "b.wav"))]
    with pytest.raises(AudioError, match=r"b\.wav: no such file"):
        with_durations(utterances)
    headers = read_headers(utterances)
    assert headers[utterances[0].audio] == AudioInfo(0.5, 8000, 1)
    assert isinstance(headers[utterances[1].audio], AudioError)
    assert [u.duration for u in with_durations(utterances, headers=headers)] == [0.5, None]


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("LibriSpeech/dev-5h", 119, ("1970-28415-0000", "1970")),
        ("LibriSpeech/unlabelled-1h", 234, ("32-21625-0000", "32")),
        ("LJSpeech-1.1", 385, ("LJ001-0001", "LJ")),
        ("fsdd", 3000, ("0_george_0", "george")),
        ("tts_digits", 714, ("af_alloy-00", "af_alloy")),
    ],
)
@needs_shared("data")
def test_real_corpora_are_recognised(name, count, first):
    utterances = read_corpus(shared(f"data/{name}"))
    assert (len(utterances), (utterances[0].id, utterances[0].speaker)) == (count, first)
    assert all(Path(u.audio).exists() for u in utterances[::50])
