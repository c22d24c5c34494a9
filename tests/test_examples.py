"""Examples that people copy: those of docstrings, and the tutorial's cells, run as they stand."""

from __future__ import annotations

import doctest
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from samba_asr.audio.read import read
from samba_asr.data.manifest import read_manifest
from samba_asr.engine import Engine
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from tests.support.sound import noise

ROOT = Path(__file__).parents[1]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "samba_asr").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.fixture
def talk(tmp_path, monkeypatch) -> None:
    """talk.wav in the current folder."""
    torch.set_num_threads(1)
    clip = next(u for u in read_manifest(ROOT / "egs" / "digits" / "data" / "manifest.jsonl") if u.split == "test")
    audio = read(clip.audio, start=clip.start, duration=clip.duration)
    soundfile.write(tmp_path / "talk.wav", audio.samples, audio.rate)
    monkeypatch.chdir(tmp_path)


def test_the_main_modules_have_examples():
    assert {"samba_asr.recognizer", "samba_asr.evaluation.evaluate"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(talk, name):
    module = importlib.import_module(name)
    found = doctest.testmod(module, optionflags=FLAGS)
    assert found.attempted
    assert not found.failed


def test_the_tutorial_runs(monkeypatch):
    torch.set_num_threads(1)
    folder = ROOT / "egs" / "tutorial"
    monkeypatch.chdir(folder)
    notebook = json.loads((folder / "tutorial.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])  # they would go stale
    names: dict = {}
    for cell in cells:
        exec(compile(cell, "tutorial.ipynb", "exec"), names)
    assert names["result"].text == names["live"].text == names["clip"].text
    assert names["scored"].wer < 15


def test_objects_say_what_they_are_and_end_with_their_block(recognizer):
    with recognizer.stream(latency_ms=320) as stream:
        assert repr(stream) == "Stream(0 segments, partial '', 0.0 s)"
        stream.accept(noise(1.0))
    assert repr(stream).endswith("finished, 1.0 s)")
    assert stream.finish().text == recognizer.transcribe(noise(1.0), latency_ms=320).text != ""
    session = recognizer.session(rate=8000)
    session.feed(noise(0.5, 8000))
    assert repr(session).startswith("Session(open, 0.5 s at 8000 Hz, 0.")
    with Engine(recognizer, max_sessions=3) as engine:
        engine.open(lambda event: None, 16000)
        assert repr(engine).endswith(", 1 of 3 sessions)")
    assert not engine.sessions
    with pytest.raises(UserError), recognizer.stream() as stream:
        stream.accept(np.full(9, np.nan, np.float32))
    long = Recognizer.transcribe(recognizer, noise(6.0))
    assert len(repr(long)) < 130
