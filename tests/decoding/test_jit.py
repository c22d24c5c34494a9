"""The cache of compiled functions: where it lies, and that nothing depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("numba")
from numba.core.caching import FunctionCache, NullCache

from samba_asr.decoding.compiled import jit

ROOT = Path(__file__).resolve().parents[2]
TWICE = """
from samba_asr.decoding.compiled.jit import jit

@jit
def twice(x):
    return 2 * x
"""


def compiled_in(cache: Path, module: Path, **more: str) -> str:
    """Compile and call a function in a process of its own; returns its result and the folder of its cache."""
    (module / "twice.py").write_text(TWICE)
    code = "from twice import twice; print(twice(21), getattr(getattr(twice, '_cache', None), 'cache_path', None))"
    env = {**os.environ, "SAMBA_ASR_CACHE": str(cache), "PYTHONPATH": f"{ROOT}:{module}", **more}
    env = {name: value for name, value in env.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_lies_in_the_cache_folder(tmp_path):
    assert compiled_in(tmp_path / "cache", tmp_path).startswith(f"42 {tmp_path}/cache/kernels/")
    assert list((tmp_path / "cache").rglob("*.nbi"))


def test_without_a_folder_to_write_every_process_compiles(tmp_path):
    (tmp_path / "file").write_text("")
    assert compiled_in(tmp_path / "file", tmp_path) == "42 None"
    assert not list(tmp_path.rglob("*.nbi"))


def test_plain_python_does_without_it(tmp_path):
    assert compiled_in(tmp_path / "cache", tmp_path, NUMBA_DISABLE_JIT="1") == "42 None"


def test_a_first_call_that_fails_is_made_again_without_the_cache(monkeypatch):
    compiled, calls = SimpleNamespace(_cache=object.__new__(FunctionCache)), []
    monkeypatch.setattr(jit, "_called", False)
    monkeypatch.setattr(jit, "_compiled", [compiled])

    def call() -> int:
        calls.append(type(compiled._cache))
        if len(calls) == 1:
            raise EOFError("the file is cut")
        return 42

    assert jit.call_first(call) == 42
    assert calls == [FunctionCache, NullCache]


def test_an_error_that_is_not_of_the_cache_is_raised(monkeypatch):
    monkeypatch.setattr(jit, "_called", False)
    monkeypatch.setattr(jit, "_compiled", [])
    with pytest.raises(ZeroDivisionError):
        jit.call_first(lambda: 1 // 0)


def test_the_name_of_its_folder_follows_every_file_with_compiled_functions():
    folder = Path(jit.__file__).parent
    with_functions = {path.stem for path in folder.glob("*.py") if "\n@jit\n" in path.read_text()}
    assert with_functions <= set(jit.KERNELS)


def test_the_cache_knows_all_files_with_compiled_functions():
    files = {path.stem for path in Path(jit.__file__).parent.glob("*.py") if "\n@jit" in path.read_text()}
    assert files | {"jit", "layout"} == set(jit.KERNELS)
