"""The YAML files compose, the models have the sizes of their names, and the recipes' run.sh read their arguments."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest
import torch

from samba_asr import config as configs
from samba_asr.models.asr import AsrModel

ROOT = Path(__file__).resolve().parents[2]
CONF = sorted(p.relative_to(ROOT / "conf").with_suffix("").as_posix() for p in (ROOT / "conf").rglob("*.yaml"))
RUNS = sorted(p for p in (ROOT / "egs").glob("*/run.sh") if "run_stages" in p.read_text())  # recipes in stages


@pytest.mark.parametrize("name", CONF)
def test_every_configuration_loads_by_its_name(name):
    assert isinstance(configs.load([name]), configs.Config)


@pytest.mark.parametrize(
    ("name", "vocab_size", "low", "high"),
    [
        ("tiny", 30, 0.5, 1.0),
        ("mini", 200, 3, 5),
        ("small", 500, 8, 12),
        ("base", 500, 25, 35),
        ("large", 1000, 85, 115),
    ],
)
def test_a_model_has_as_many_parameters_as_its_name_says(name, vocab_size, low, high):
    model = dataclasses.replace(configs.load([f"model/{name}"]).model, vocab_size=vocab_size)
    assert model.decoder.layers > 0  # it counts too
    with torch.device("meta"):
        built = AsrModel(model)
    assert low <= sum(p.numel() for p in built.parameters()) / 1e6 < high


@pytest.mark.parametrize(
    "names",
    [
        ("model/tiny", "train/cpu", "digits"),
        ("model/tiny", "train/cpu", "digits", "fsdd"),
        ("model/mini", "train/cpu", "mini_librispeech"),
        ("model/mini", "train/cpu", "mini_librispeech", "phones", "crf"),
        ("model/mini", "train/cpu", "mini_librispeech", "phones", "mwer"),
        ("model/base", "train/gpu", "librispeech"),
    ],
)
def test_a_recipe_composes(names):
    config = configs.load(names)
    assert config.model.d_model == configs.load(names[:1]).model.d_model
    assert config.loss.decoder > 0  # the second pass is trained


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, check=False, timeout=20)


def test_there_are_recipes():
    assert {p.parent.name for p in RUNS} == {"digits", "fsdd", "librispeech", "mini_librispeech"}


@pytest.mark.parametrize("script", sorted((ROOT / "egs").rglob("*.sh")), ids=str)
def test_shell_scripts_parse(script):
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize("script", RUNS, ids=lambda p: p.parent.name)
class TestRun:
    def test_is_thin(self, script):
        assert len(script.read_text().splitlines()) <= 60

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--stages", "1"),
            ("--stage",),
            ("--stage", "six"),
            ("--stage", "3", "--stop-stage", "2"),
            ("--processes", "0"),
            ("--processes", "two"),
            ("train",),
            ("--pretrain", "five"),
            ("--pretrain", "5", "--init", "x"),
            ("--speech", "x.jsonl"),
        ],
    )
    def test_refuses_what_it_does_not_know_before_it_does_anything(self, script, arguments):
        done = run(script, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert arguments[0] in done.stderr.splitlines()[0]
        assert "usage:" in done.stderr

    def test_tells_its_options(self, script):
        done = run(script, "--help")
        assert done.returncode == 0
        assert "--stop-stage" in done.stderr
