"""`samba-asr doctor`: what it shows is what is so, and what is broken fails."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

from samba_asr.commands import doctor
from samba_asr.models import box

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def call(*words) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    args = parser.parse_args(["doctor", *words])
    return args.run(args)


def distributions(requirements) -> set[str]:
    return {re.match(r"[\w-]+", r)[0] for r in requirements if not r.startswith("samba_asr")}


def test_it_knows_the_packages_and_extras_of_pyproject():
    assert set(doctor.REQUIRED.values()) == distributions(PYPROJECT["dependencies"])
    extras = PYPROJECT["optional-dependencies"]
    expected = {(d, e) for e in extras if e not in ("test", "all") for d in distributions(extras[e])}
    assert {(o.distribution, o.extra) for o in doctor.OPTIONAL.values()} == expected


def test_json_holds_what_is_so(capsys):
    assert call("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["required"]["torch"]["version"] == importlib.metadata.version("torch")  # "+cu130" may be missing
    assert found["device"]["device"] == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert found["device"]["dtype"] in ("float32", "bfloat16")
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert set(found["ops"]) == {"selective_scan", "ssd", "lti", "rnn", "scan2d", "conv1d", "quasiseparable"}
    assert all(pick["why"] for picks in found["ops"].values() for pick in picks.values())
    assert found["search"]["backend"] == ("compiled" if importlib.util.find_spec("numba") else "numpy")
    assert "numba" in found["search"]["why"]


def test_the_text_ends_with_the_verdict(capsys):
    assert call() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("samba_asr ")
    assert any(line.startswith("device   ") for line in lines)
    assert lines[-1] == "all is well"


def test_a_missing_optional_package_comes_with_its_extra(capsys, monkeypatch):
    missing = doctor.Optional("no-such-distribution", "nosuch", "nothing")
    monkeypatch.setitem(doctor.OPTIONAL, "nosuch", missing)
    assert call() == 0
    assert "pip install '.[nosuch]'" in capsys.readouterr().out


@pytest.mark.parametrize(("distribution", "message"), [("no-such-distribution", "not installed"), ("numpy", "broken")])
def test_something_required_that_is_broken_fails(capsys, monkeypatch, distribution, message):
    monkeypatch.setitem(doctor.REQUIRED, "no_such_module", distribution)
    assert call() == 1
    assert f"no_such_module is {message}" in capsys.readouterr().out


def test_a_broken_model_in_the_box_fails(capsys, monkeypatch, tmp_path):
    (tmp_path / "box/english").mkdir(parents=True)
    (tmp_path / "box/english/config.yaml").write_text("version: 77\n")
    (tmp_path / "box/english/model.safetensors").touch()
    monkeypatch.setattr(box.resources, "files", lambda package: tmp_path)
    assert call() == 1
    assert "shipped model is broken" in capsys.readouterr().out
