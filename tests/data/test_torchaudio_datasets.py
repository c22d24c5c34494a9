"""torchaudio's file lists as utterances, with a stand-in for torchaudio, which does not load everywhere."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from samba_asr.data.manifest import Utterance
from samba_asr.data.torchaudio_datasets import read_torchaudio
from samba_asr.errors import UserError


class Fake:
    def __init__(self, root, url="train-clean-100", subset=None, download=False):
        if root == "/empty":
            raise RuntimeError("Dataset not found.")
        self.rows = [("dev-clean/1/2/1-2-0003.flac", 16000, "HI", 1, 2, 3)]
        if subset:
            self.rows = [("speech_commands_v0.02/bed/0a_nohash_0.wav", 16000, "bed", "0a", 0)]

    def __len__(self):
        return len(self.rows)

    def get_metadata(self, index):
        return self.rows[index]


@pytest.fixture
def torchaudio(monkeypatch):
    datasets = SimpleNamespace(LIBRISPEECH=Fake, SPEECHCOMMANDS=Fake)
    monkeypatch.setitem(sys.modules, "torchaudio", SimpleNamespace(datasets=datasets))


@pytest.mark.usefixtures("torchaudio")
def test_utterances_come_from_the_file_lists():
    librispeech = read_torchaudio("LIBRISPEECH", "/d", "dev-clean")
    audio = "/d/LibriSpeech/dev-clean/1/2/1-2-0003.flac"
    assert librispeech == [Utterance("1-2-0003", audio, "HI", "1", rate=16000, split="dev-clean")]
    commands = read_torchaudio("SPEECHCOMMANDS", "/d", "testing")
    audio = "/d/SpeechCommands/speech_commands_v0.02/bed/0a_nohash_0.wav"
    assert commands == [Utterance("bed-0a_nohash_0", audio, "bed", "0a", rate=16000, split="testing")]


@pytest.mark.usefixtures("torchaudio")
def test_what_is_not_there_is_named():
    with pytest.raises(UserError, match="'YESNO' is not supported"):
        read_torchaudio("YESNO", "/d")
    with pytest.raises(UserError, match="/empty: torchaudio finds no LIBRISPEECH"):
        read_torchaudio("LIBRISPEECH", "/empty")


def test_without_torchaudio_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(UserError, match=r"'\.\[torchaudio\]"):
        read_torchaudio("LIBRISPEECH", "/d")
