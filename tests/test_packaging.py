"""The wheel holds the package, its configuration and its models, and nothing that lands bare in site-packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("conf", "recipes", "serve")  # folders of the checkout that are installed as samba_asr.conf, ...


def packages() -> set[str]:
    """The package of every folder that holds Python."""
    found = set()
    for top in ("samba_asr", *OUTSIDE):
        for file in (ROOT / top).rglob("*.py"):
            name = ".".join(file.parent.relative_to(ROOT).parts)
            found.add(name if top == "samba_asr" else f"samba_asr.{name}")
    return found


def test_pyproject_names_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(packages())


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="no checkout of git")
def test_the_top_of_the_repository_holds_nothing_else():
    """Four wheels that `pip download` had left in the checkout were committed once, 29 MB (2026-11-27)."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    top = {path.split("/")[0] for path in listed if not path.startswith(".")}
    assert top == {"README.md", "pyproject.toml", "samba_asr", "conf", "recipes", "serve", "egs", "tests"}


def test_every_package_has_an_init():
    folders = {Path(*name.split(".")) for name in packages()}
    at = [ROOT / (Path(*f.parts[1:]) if len(f.parts) > 1 and f.parts[1] in OUTSIDE else f) for f in folders]
    assert [str(f) for f in at if not (f / "__init__.py").exists()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="git may write links as files")
@pytest.mark.parametrize("name", OUTSIDE)
def test_type_checkers_find_the_packages_outside(name):
    link = ROOT / ".typing/samba_asr" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def has_setuptools() -> bool:
    try:
        return int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_setuptools(), reason="building a wheel without a download needs setuptools>=77")
def test_wheel_holds_the_package_and_nothing_bare(tmp_path):
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("samba_asr", *OUTSIDE):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", ".github/LICENSE"):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    done = subprocess.run([*command, str(tmp_path), str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    held = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in held} == {"samba_asr"}
    for folder, inside in (("samba_asr", "samba_asr"), *((name, f"samba_asr/{name}") for name in OUTSIDE)):
        wanted = [f for f in (copy / folder).rglob("*") if f.suffix in (".py", ".yaml") or "box" in f.parts]
        missing = {f"{inside}/{f.relative_to(copy / folder).as_posix()}" for f in wanted if f.is_file()} - held
        assert not missing

    assert "samba_asr/py.typed" in held
    (text,) = (name for name in names if name.endswith(".dist-info/licenses/.github/LICENSE"))
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(text) == (ROOT / ".github/LICENSE").read_bytes()
        assert "License-Expression: Apache-2.0\n" in archive.read(metadata).decode()
