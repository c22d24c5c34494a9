"""The first run of a machine compiles the search: it says so before it begins, once, and later runs say nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from samba_asr.decoding.compiled import store
from samba_asr.decoding.compiled.tables import of_guide
from samba_asr.decoding.words import WordGuide
from tests.decoding.toys import PHONES, model

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = """
from samba_asr.decoding.compiled.jit import jit

@jit
def twice(x):
    return 2 * x

@jit
def fourfold(x):
    return twice(twice(x))

@jit
def half(x):
    return x / 2
"""
CALLS = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from functions import fourfold, twice
import numba
foreign = numba.njit(lambda x: x + 1)
print("foreign", foreign(1))
print("begins")
print(fourfold(10), twice(21.0))
"""
REST = "from functions import half; print(half(2))"


def first_call(cache: Path, module: Path, more: str = "") -> list[str]:
    """Compile and call functions in a process of its own; returns the lines of its log and output, in order."""
    (module / "functions.py").write_text(FUNCTIONS)
    env = {**os.environ, "SAMBA_ASR_CACHE": str(cache), "PYTHONPATH": f"{ROOT}:{module}"}
    env.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", CALLS + more], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_it_says_once_that_it_compiles_and_later_runs_do_not(tmp_path):
    foreign, begins, said, result = first_call(tmp_path / "cache", tmp_path)
    assert (foreign, begins, result) == ("foreign 2", "begins", "40 42.0")
    assert "compiling the beam search" in said
    assert "later runs load" in said
    assert first_call(tmp_path / "cache", tmp_path) == [foreign, begins, result]
    assert first_call(tmp_path / "cache", tmp_path, REST) == [foreign, begins, result, "1.0"]  # a small rest


def test_without_a_folder_to_write_it_says_that_every_run_compiles(tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        *_, said, result = first_call(tmp_path / "file", tmp_path)
        assert f"each run does, as {tmp_path / 'file'}" in said
        assert result == "40 42.0"


def test_tables_are_announced_when_they_are_made(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SAMBA_ASR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "source").write_bytes(b"language model")

    def make():
        assert "making tables of the language model" in caplog.text  # before the work
        return of_guide(WordGuide(PHONES, model(tmp_path), weight=0.8, bonus=0.7))

    with caplog.at_level(logging.INFO, "samba_asr"):
        for _ in range(2):
            store.tables_for({"lm.path": tmp_path / "source"}, make)
    assert caplog.text.count("making tables") == 1
