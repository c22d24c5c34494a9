"""Text files of users are read alike with a byte order mark, with any line ends, and compressed, by every reader."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from samba_asr.commands.score import read_transcripts
from samba_asr.data.readers import read_corpus
from samba_asr.decoding.hotwords import read as read_hotwords
from samba_asr.decoding.ngram import read_ngram
from samba_asr.errors import UserError
from samba_asr.text.lexicon import Lexicon
from samba_asr.text.lines import read_lines
from samba_asr.text.lm import read_lines as read_training_text

ENDS = ["\n", "\r\n", "\r"]
BOMS = ["", "\ufeff"]

ARPA = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<s>\t-0.3\n-1\t</s>\n-1\tONE\n\n\\end\\\n"
LINE = json.dumps({"id": "a", "audio": "a.wav", "text": "ONE TWO"})


def corpus(path: Path) -> list[tuple[str, str]]:
    return [(u.id, u.text) for u in read_corpus(path)]


def transcripts(path: Path) -> list[tuple[str, str]]:
    return [(line.id, line.text) for line in read_transcripts(path).values()]


READERS = {  # name of the file -> (content, reader of a path, what it gives)
    "a.jsonl": (f"{LINE}\n", corpus, [("a", "ONE TWO")]),
    "a.csv": ("id,path,text\na,a.wav,ONE TWO\n", corpus, [("a", "ONE TWO")]),
    "a.tsv": ("id\tpath\ttext\na\ta.wav\tONE TWO\n", corpus, [("a", "ONE TWO")]),
    "ref": ("a ONE TWO\nb\tTHREE\n", transcripts, [("a", "ONE TWO"), ("b", "THREE")]),
    "ref.trn": ("ONE TWO (s-a)\n", transcripts, [("s-a", "ONE TWO")]),
    "ref.jsonl": (f"{LINE}\n", transcripts, [("a", "ONE TWO")]),
    "lexicon.txt": ("ONE W AH N\nTWO\tT UW\n", lambda p: list(Lexicon.read(p)), ["ONE", "TWO"]),
    "hotwords.txt": (
        "ANNE BRONTE :3\nKEATS\t:2\n",
        lambda p: read_hotwords(p, 1.0),
        {"ANNE BRONTE": 3.0, "KEATS": 2.0},
    ),
    "lm.arpa": (ARPA, lambda p: sorted(read_ngram(p).ids), ["</s>", "<s>", "ONE"]),
    "text.txt": ("ONE  TWO\n\nTHREE\n", lambda p: list(read_training_text([p])), ["ONE TWO", "THREE"]),
}


@pytest.mark.parametrize("bom", BOMS, ids=["plain", "bom"])
@pytest.mark.parametrize("end", ENDS, ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("name", READERS)
def test_a_mark_and_line_ends_change_nothing(tmp_path, name, end, bom):
    content, read, expected = READERS[name]
    (tmp_path / name).write_bytes((bom + content).replace("\n", end).encode())
    assert read(tmp_path / name) == expected


@pytest.mark.parametrize("end", ENDS, ids=["lf", "crlf", "cr"])
def test_kaldi_librispeech_and_ljspeech_too(tmp_path, end):
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(("\ufeff" + text).replace("\n", end).encode())

    write("kaldi/wav.scp", "a\ta.wav\nb b.wav\n")
    write("kaldi/text", "a\tONE\nb TWO\n")
    write("kaldi/utt2spk", "a s\nb\ts\n")
    assert [(u.id, u.text, u.speaker) for u in read_corpus(tmp_path / "kaldi")] == [
        ("a", "ONE", "s"),
        ("b", "TWO", "s"),
    ]
    write("lj/metadata.csv", "LJ1|raw|ONE\n")
    (tmp_path / "lj/wavs").mkdir()
    assert corpus(tmp_path / "lj") == [("LJ1", "ONE")]
    write("libri/1/2/1-2.trans.txt", "1-2-3 ONE\n")
    assert corpus(tmp_path / "libri") == [("1-2-3", "ONE")]


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".xz", lzma), (".bz2", bz2)])
def test_compressed_files_are_read(tmp_path, suffix, module):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(module.compress("\ufeffONE\r\nTWO\u2028THREE".encode()))
    assert read_lines(path, "text") == ["ONE", "TWO\u2028THREE"]


@pytest.mark.parametrize("name", READERS)
def test_another_encoding_is_named(tmp_path, name):
    content, read, _ = READERS[name]
    (tmp_path / name).write_bytes(content.replace("ONE", "\u00c9").replace("ANNE", "\u00c9").encode("latin-1"))
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)
