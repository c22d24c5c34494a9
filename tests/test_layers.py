"""Imports go down only, and `import samba_asr` needs torch alone: read from the source, and tried."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("conf", "recipes", "serve")  # installed as samba_asr.conf, ...

LEVELS = (  # a room imports itself and rooms of lower levels, never one beside it
    {"errors"},
    {"subtitles"},
    {"cache", "collector", "config", "device", "plot", "registry", "streaming", "tensor_file", "threads"},
    {"ops", "audio", "text", "metrics", "conf"},
    {"nn", "data"},
    {"models", "recipes"},
    {"runtime"},
    {"decoding"},
    {"session", "training"},
    {"steps"},
    {"hub", "many", "result"},
    {"stream"},
    {"client", "recognizer", "whisper"},
    {"evaluation"},
    {"engine", "batch", "bench", "formats", "label"},
    {"serve"},
    {"commands"},
    {"cli", "archive"},
)
NO_MODELS = {"audio", "text", "data", "metrics", "recipes"}  # (audio.features imports the contract)
MODELS = {
    "ops",
    "nn",
    "models",
    "runtime",
    "decoding",
    "training",
    "session",
    "steps",
    "result",
    "recognizer",
    "engine",
}
PARTS = {"acoustic", "ctc", "decoder"}  # of a model, which only these rooms reach into
INSIDE_MODELS = {"models", "training", "runtime"}

EVERYWHERE = {"torch", "numpy"}
AT_IMPORT = {  # other packages that a file may import when it is imported; all else is imported inside a function
    "audio/sound_file.py": {"soundfile"},
    "decoding/compiled/jit.py": {"numba"},  # imported by the compiled search alone
    "serve": {"fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn", "websockets"},  # any file of the room
    "ops": {"triton"},  # any file called triton.py
}


class Import(NamedTuple):
    file: str  # within samba_asr: nn/conv.py, serve/app.py
    name: str  # samba_asr.nn.blocks, torch
    when: str  # "import", "call" or "never" (for type checkers)


def files() -> Iterator[tuple[str, Path]]:
    for top in ("samba_asr", *OUTSIDE):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path.relative_to(ROOT / "samba_asr" if top == "samba_asr" else ROOT).as_posix(), path


def imports_of(file: str, tree: ast.AST, when: str = "import") -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        inside = when
        if isinstance(node, ast.Import):
            yield from (Import(file, alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write the whole name of a module, not a relative one"
            names = [f"samba_asr.{a.name}" for a in node.names] if node.module == "samba_asr" else [node.module]
            yield from (Import(file, name, when) for name in names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside = "call"
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            inside = "never"
        yield from imports_of(file, node, inside)


IMPORTS = [found for file, path in files() for found in imports_of(file, ast.parse(path.read_text()))]


def room(path: str) -> str:
    if path == "recipes/archive.py":  # the one recipe that recognizes
        return "archive"
    return path.split("/")[0].removesuffix(".py")


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if name in rooms)


def inside() -> Iterator[tuple[Import, str, str]]:
    """Imports from one room of samba_asr to another."""
    for found in IMPORTS:
        parts = found.name.split(".")
        if parts[0] == "samba_asr" and len(parts) > 1 and parts[1] != "__version__" and found.file != "__init__.py":
            source, target = room(found.file), parts[1]
            if source != target:
                yield found, source, target


def outside() -> Iterator[tuple[Import, str]]:
    """Imports of packages that are neither ours nor Python's."""
    for found in IMPORTS:
        package = found.name.split(".")[0]
        if package != "samba_asr" and package not in sys.stdlib_module_names and package not in EVERYWHERE:
            yield found, package


def core_packages() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.match(r"[\w-]+", text)[0].replace("-", "_") for text in project["dependencies"]}


# --- between rooms


def test_every_room_has_a_level():
    assert {room(file) for file, _ in files()} - {"__init__"} <= set.union(*LEVELS)


def test_imports_go_down_only():
    wrong = [f"{found.file} imports {found.name}" for found, a, b in inside() if level(b) >= level(a)]
    assert wrong == []


def test_audio_text_data_and_metrics_know_no_models():
    wrong = [f"{found.file} imports {found.name}" for found, a, b in inside() if a in NO_MODELS and b in MODELS]
    assert wrong == []


def reaches(file: str, tree: ast.AST) -> Iterator[str]:
    """Places where `model.acoustic`, `x.model.ctc` and the like stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PARTS:
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner == "model":
                yield f"{file}:{node.lineno} reaches into {ast.unparse(node)}"


def test_nobody_reaches_through_the_runtime():
    wrong = [
        found
        for file, path in files()
        if room(file) not in INSIDE_MODELS
        for found in reaches(file, ast.parse(path.read_text()))
    ]
    assert wrong == []


def test_models_are_nets_without_losses_and_augmentation():
    models = [(file, path.read_text()) for file, path in files() if room(file) == "models"]
    names = re.compile(r"\b(audio\.augment|LossConfig|AugmentConfig)\b")
    assert [f"{file}: {name}" for file, text in models for name in names.findall(text)] == []


def borrowed(file: str, tree: ast.AST) -> Iterator[str]:
    """Imports of a test file by another: what tests share lies in tests/support, or beside them in files without tests."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", "") or ""
            names = {module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)}
            for name in sorted(names):
                path = ROOT / f"{name.replace('.', '/')}.py"
                if name.startswith("tests.") and re.match(r"test_|conftest", path.name) and path.exists():
                    yield f"{file}:{node.lineno} imports {name}"


def test_no_test_file_imports_another():
    wrong = [
        found
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for found in borrowed(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text()))
    ]
    assert wrong == []


# --- other people's packages


def test_packages_are_imported_where_they_are_used():
    wrong = []
    for found, package in outside():
        allowed = AT_IMPORT.get(found.file, set())
        if room(found.file) == "serve" or found.file.endswith("/triton.py"):
            allowed = AT_IMPORT[room(found.file)]
        if found.when == "import" and package not in allowed:
            wrong.append(f"{found.file} imports {package}")
    assert wrong == []


def test_an_optional_package_has_one_home():
    homes = defaultdict(set)
    for found, package in outside():
        if package not in core_packages() and room(found.file) != "serve" and not found.file.endswith("/triton.py"):
            homes[package].add(found.file)
    assert {package: where for package, where in homes.items() if len(where) > 1} == {}


LOADED = """
import sys
import torch
def tops(): return {name.split(".")[0] for name in sys.modules}
before = tops()
import samba_asr
import samba_asr.config, samba_asr.decoding.greedy, samba_asr.models.asr, samba_asr.models.folder, samba_asr.streaming
print(*sorted(tops() - before - set(sys.stdlib_module_names)))
"""


def test_the_package_and_its_models_load_torch_alone():
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"samba_asr", "numpy"}


def test_importing_the_package_alone_loads_none_of_its_rooms():
    code = "import sys, samba_asr; print(*[name for name in sys.modules if name.startswith('samba_asr.')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- does this file see?


@pytest.mark.parametrize(
    ("code", "want"),
    [
        ("import a.b, c", [("a.b", "import"), ("c", "import")]),
        ("from samba_asr import nn, config as c", [("samba_asr.nn", "import"), ("samba_asr.config", "import")]),
        ("try:\n import a\nexcept ImportError: pass", [("a", "import")]),
        ("class X:\n import a\n def f(self):\n  from b import c", [("a", "import"), ("b", "call")]),
        ("if TYPE_CHECKING:\n import a\nelse:\n import b", [("a", "never"), ("b", "never")]),
        ("def f():\n if x:\n  import a", [("a", "call")]),
    ],
)
def test_imports_are_found(code, want):
    assert [(found.name, found.when) for found in imports_of("x.py", ast.parse(code))] == want


@pytest.mark.parametrize("code", ["model.acoustic", "self.model.ctc.linear", "f(loaded.model.decoder)"])
def test_reaching_into_a_model_is_found(code):
    assert len(list(reaches("x.py", ast.parse(code)))) == 1
    assert list(reaches("x.py", ast.parse("config.model_decoder, loss.ctc, self.decoder, runtime.model"))) == []


@pytest.mark.parametrize(
    "code", ["from tests.test_box import a", "import tests.serve.test_page", "from tests.serve import test_page"]
)
def test_an_import_of_a_test_file_is_found(code):
    assert len(list(borrowed("x.py", ast.parse(code)))) == 1
    assert list(borrowed("x.py", ast.parse("from tests.support.sound import test_tone, noise"))) == []


def test_a_relative_import_is_refused():
    with pytest.raises(AssertionError, match=r"x\.py:1: write the whole name"):
        list(imports_of("x.py", ast.parse("from . import a")))
