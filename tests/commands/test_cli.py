"""The command line with what shells and users hand over: pipes, names in any bytes, full disks, wrong numbers."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samba_asr import formats
from samba_asr.audio.read import read
from samba_asr.cli import gathered, main, parser
from samba_asr.commands.examples import EXAMPLES, subcommands
from samba_asr.data.manifest import read_manifest
from samba_asr.decoding.transcript import Segment, Word
from samba_asr.result import Result

CORPUS = Path(__file__).parents[2] / "egs" / "digits" / "data" / "manifest.jsonl"
posix = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell, named pipes")
CLIP = next(u for u in read_manifest(CORPUS) if u.split == "test")


@pytest.fixture
def clip(tmp_path, monkeypatch) -> Path:
    """A spoken digit or some, in the folder that we are in; the small model of the box reads it."""
    monkeypatch.setattr("samba_asr.models.box.DEFAULT", "digits")
    monkeypatch.chdir(tmp_path)
    audio = read(CLIP.audio, start=CLIP.start, duration=CLIP.duration)
    soundfile.write(tmp_path / "clip.wav", audio.samples, audio.rate)
    return tmp_path / "clip.wav"


@pytest.fixture
def text(clip, capsys) -> str:
    """Recognize the clip by the model."""
    assert main(["transcribe", "clip.wav"]) == 0
    found = capsys.readouterr().out
    assert found.strip()
    return found


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """A command of a shell in which `samba` is this checkout's samba-asr with the small model."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import samba_asr.models.box as b; "
    program += "b.DEFAULT = 'digits'; from samba_asr.cli import main; sys.exit(main())"
    (folder / "samba.py").write_text(program)
    command = f'samba() {{ "{sys.executable}" "{folder}/samba.py" "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, check=False)


def console(monkeypatch, encoding: str) -> io.BytesIO:
    """Standard output of this encoding, as bytes."""
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding))
    return out


# Where audio comes from


@posix
def test_standard_input_and_a_substitution_are_files(clip, text):
    done = shell("cat clip.wav | samba transcribe --no-names - <(cat clip.wav) clip.wav", clip.parent)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == text * 3


@posix
def test_pipes_with_and_without_a_name_are_files(clip, text, capsys):
    os.mkfifo("fifo")
    end, write = os.pipe()
    feeds = [
        threading.Thread(target=lambda p=p: Path(p).write_bytes(clip.read_bytes()))
        for p in ("fifo", f"/dev/fd/{write}")
    ]
    for feed in feeds:
        feed.start()
    closer = threading.Thread(target=lambda: (feeds[1].join(), os.close(write)))
    closer.start()
    assert main(["transcribe", "--no-names", "fifo", f"/dev/fd/{end}"]) == 0
    for thread in (*feeds, closer):
        thread.join()
    os.close(end)
    assert capsys.readouterr().out == text * 2


@posix
@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_standard_input_that_is_a_file_is_read_from_its_beginning(clip, text, capsys, monkeypatch, source):
    with open(clip) as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["transcribe", source]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_standard_input_that_is_an_object_of_ours(clip, text, capsys, monkeypatch, source):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(clip.read_bytes())))
    assert main(["transcribe", source]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/tty", "/dev/null"])
def test_a_device_is_one_line_of_error(clip, capsys, name):
    assert main(["transcribe", name]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_bad_file_of_any_name_costs_one_line_and_the_others_get_their_text(clip, text):
    names = ["bad\udcff.wav", "tab\tand\nline.wav", "\x1b[31m.wav", "\u2028.wav", "missing\n.wav"]
    for name in names[:4]:
        (clip.parent / name).write_bytes(b"no audio")
    arguments = [os.fsencode(name) for name in (*names, "clip.wav")]
    program = (
        "import sys, samba_asr.models.box as b; b.DEFAULT = 'digits'; from samba_asr.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "transcribe", *arguments],
        cwd=clip.parent,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert (done.returncode, done.stdout.decode()) == (1, f"clip.wav: {text}")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == len(names) + 1
    assert [line.startswith("samba-asr transcribe: error: ") for line in lines] == [True] * len(names) + [False]


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
@pytest.mark.parametrize("name", ["any\udcffbytes.wav", "a \t b\nc.wav", "\u00e9\U0001f600.wav", ".wav"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_good_files_of_any_name_give_ctm_of_six_fields_and_json_in_any_encoding(clip, monkeypatch, name, encoding):
    os.rename(clip, name)
    out = console(monkeypatch, encoding)
    assert main(["transcribe", "--format", "ctm", f"./{name}"]) == 0
    lines = out.getvalue().decode(encoding).splitlines()
    assert lines
    assert all(len(line.split(" ")) == len(line.split()) == 6 for line in lines)
    out = console(monkeypatch, encoding)
    assert main(["transcribe", "--format", "json", f"./{name}"]) == 0
    assert json.loads(out.getvalue().decode(encoding))["audio"] == f"./{name}"


def test_ctm_fields_hold_no_blanks():
    word = Word("two words", 0.0, 1.0, 0.5, ())
    result = Result((Segment("two words", 0.0, 1.0, (word,), 1.0),), 1.0)
    for name in ("", "-", "a b.wav", "a\u2003b\x1f.wav", "\n.wav"):
        assert len(formats.render(result, name, "ctm").split()) == 6


# Settings and numbers


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["t", "--set", "a.b=1", "f.wav"], ["t", "f.wav", "--set", "a.b=1"]),
        (["t", "--set", "a=1", "b=2", "f", "g", "--set", "c=3"], ["t", "f", "g", "--set", "a=1", "b=2", "c=3"]),
        (["t", "f", "--set=a=1", "g"], ["t", "f", "g", "--set", "a=1"]),
        (["t", "--set", "a=1", "--", "b=2"], ["t", "--set", "a=1", "--", "b=2"]),
        (["t", "--set", "a=1", "./b=2", "-x"], ["t", "./b=2", "-x", "--set", "a=1"]),
        (["t", "--set", "beam", "f"], ["t", "f", "--set", "beam"]),  # and the configuration says what is wrong with it
        (["t", "--set"], ["t", "--set"]),
        (["t", "a=1"], ["t", "a=1"]),
    ],
)
def test_settings_end_where_no_key_value_stands(argv, expected):
    assert gathered(argv) == expected


def test_a_file_may_follow_settings(clip, text, capsys):
    assert (
        main(
            [
                "transcribe",
                "--set",
                "decode.search.method=beam",
                "decode.search.beam=8",
                "clip.wav",
                "--set",
                "decode.search.nbest=1",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.strip()
    assert main(["transcribe", "--set", "decode.nosuch=1", "clip.wav"]) == 1
    assert "unknown key decode.nosuch" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "words",
    [
        ["transcribe", "--latency-ms", "VALUE", "clip.wav"],
        ["transcribe", "--chunk-ms=VALUE", "clip.wav"],
        ["explain", "clip.wav", "--out", "x.png", "--seconds=VALUE"],
        ["prepare", "x", "--shortest=VALUE"],
        ["lm", "tune", "--model", "x", "--data", "y", "--weights", "0.5", "VALUE"],
        ["transcribe", "clip.wav", "--set", "decode.lm.weight=VALUE"],
        ["transcribe", "clip.wav", "--set", "decode.endpoint.silence=VALUE"],
        ["transcribe", "clip.wav", "--set", "decode.hotwords.weight=.VALUE"],
    ],
)
def test_what_is_no_number_is_one_line_of_error(clip, capsys, words, value):
    if "VALUE" in words and value == "-inf":
        pytest.skip("argparse takes it for an option")
    assert main([word.replace("VALUE", value) for word in words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "error" in lines[0]


# Where text goes


full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a system with /dev/full")


@full
@pytest.mark.parametrize(
    "words", [["transcribe", "clip.wav", "clip.wav"], ["transcribe", "--format", "json", "clip.wav"]]
)
def test_a_full_disk_is_one_line_of_error(clip, monkeypatch, capsys, words):
    with open("/dev/full", "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


@full
def test_nothing_follows_that_line_when_the_process_ends(clip):
    done = shell("samba transcribe clip.wav > /dev/full", clip.parent)
    assert done.returncode == 1
    assert len(done.stderr.decode().splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_one_line_of_error(clip, capsys):
    Path("file").write_text("")
    assert main(["prepare", str(CORPUS), "--out", "file"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_of_a_broken_file_comes_the_text_before_the_cut_and_a_line_of_error(clip, text, capsys):
    content = clip.read_bytes()
    samples = np.zeros(8000, np.int16).tobytes()  # half a second that the cut takes
    whole = bytearray(content + samples)
    whole[40:44] = (len(whole) - 44 + 32000).to_bytes(4, "little")
    Path("broken.wav").write_bytes(bytes(whole))
    assert main(["transcribe", "broken.wav"]) == 1
    captured = capsys.readouterr()
    assert captured.out == text
    assert "s were readable" in captured.err
    assert len(captured.err.splitlines()) == 1


# Help


def test_without_a_command_there_is_help(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 0
    assert "transcribe audio files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["transcibe", "a.wav"], "no command 'transcibe': did you mean 'transcribe'?"),
        (["my talk.mp3"], "`samba-asr transcribe 'my talk.mp3'` transcribes a file"),
        (["transcribe", "--formt", "srt", "a.wav"], "(did you mean --format?)"),
        (["bench", "serve", "--client", "3", "--secnods", "5"], "(did you mean --seconds?)"),
        (["--versoin"], "(did you mean --version?)"),
    ],
)
def test_a_typing_error_names_what_was_meant(capsys, argv, said):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def leaves(parser, name=""):
    below = subcommands(parser)
    for word, child in below.items():
        yield from leaves(child, f"{name} {word}".strip())
    if not below:
        yield name, parser


def test_every_command_has_examples_and_they_are_right(capsys):
    top = parser()
    for name, command in leaves(top):
        assert (command.epilog or "").startswith("examples:\n"), f"{name}: add it to samba_asr/commands/examples.py"
        lines = [line.strip() for line in command.epilog.splitlines() if "samba-asr " in line]
        assert any(f"samba-asr {name}" in line for line in lines)
        for line in lines:
            words = shlex.split(line)
            assert top.parse_args(gathered(words[words.index("samba-asr") + 1 :])).run
    assert set(EXAMPLES) <= {name for name, _ in leaves(top)}
    with pytest.raises(SystemExit):
        main(["lm", "pack", "--help"])
    assert f"examples:\n  {EXAMPLES['lm pack'][0]}\n" in capsys.readouterr().out


def test_no_default_is_a_number_that_the_command_line_refuses():
    """`bench compare` had --seconds inf by default, and so could not be called without it (2026-11-27)."""

    def walk(some):
        for action in some._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    yield from walk(inner)
            else:
                yield some.prog, action.dest, action.default

    wrong = [row for row in walk(parser()) if isinstance(row[2], float) and not math.isfinite(row[2])]
    assert not wrong
