"""What the READMEs say is there: commands that parse, settings, extras, files; and a first page that a new user can follow."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from samba_asr import config as configs
from samba_asr.cli import gathered, parser
from samba_asr.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    page
    for pattern in (
        "*.md",
        ".github/*.md",
        "conf/*.md",
        "egs/*.md",
        "egs/*/README.md",
        "samba_asr/**/README.md",
        "serve/*.md",
    )
    for page in ROOT.glob(pattern)
    if page.name != "CHANGELOG.md"  # it names what is gone
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
pages = pytest.mark.parametrize("page", PAGES, ids=NAMES)
FIRST = (ROOT / "README.md").read_text(encoding="utf-8")


def code(page: Path) -> list[str]:
    """Return the lines of shell blocks, continued lines joined, and what stands in the running text as code."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(?:sh|bash)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [*lines, *(piece.replace("\\|", "|") for piece in inline)]


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of every `samba-asr`, without comments, pipes and redirections."""
    for line in code(page):
        line = re.sub(r"(^|\s)#.*", "", line)
        for call in re.findall(r"(?:^|[\s;&|(])samba-asr ((?:'[^']*'|\"[^\"]*\"|[^&;|><]|(?<=\w)\|(?=\w))+)", line):
            yield shlex.split(call.replace(" ...", "").replace("...", ""))


@pages
def test_every_command_is_one(page, capsys):
    top, wrong = parser(), []
    for words in commands(page):
        try:
            top.parse_args(gathered([word.split("|")[0] for word in words]))
        except SystemExit as end:
            said = capsys.readouterr().err.rsplit("error: ", 1)[-1]
            named = re.search(
                r"are required|expected one argument|invalid [a-z]+ value: '[A-Z]+'", said
            )  # without values
            if end.code and not named:
                wrong.append((shlex.join(words), said))
    assert wrong == []


@pages
def test_every_setting_is_one(page):
    """Settings such as `decode.search.beam=64`; those of a mixer depend on its name."""
    keys = r"\b((?:data|optim|train|loss|augment|decode|model)\.(?!mixer\.(?!name))[a-z_.]+)="
    wrong = []
    for key in {key for line in code(page) for key in re.findall(keys, line)}:
        try:
            configs.load([], [f"{key}=0"])
        except UserError as error:
            wrong += [str(error)] if "unknown key" in str(error) else []
    assert wrong == []


@pages
def test_every_extra_is_one(page):
    found = re.findall(r"pip install (?:-e )?'?\"?(?:\.|samba_asr)\[([\w,]+)\]", page.read_text(encoding="utf-8"))
    assert {extra for some in found for extra in some.split(",")} <= PROJECT["optional-dependencies"].keys()


def test_extras_are_installed_from_the_checkout():
    """No registry has this package, so `pip install 'samba_asr[lm]'` would fail, or bring a stranger's."""
    files = [*PAGES, *ROOT.glob("samba_asr/**/*.py"), *ROOT.glob("serve/*.py"), *ROOT.glob("recipes/*.py")]
    assert [str(file) for file in files if "pip install 'samba_asr" in file.read_text(encoding="utf-8")] == []


@pages
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_first_page_is_short_and_begins_with_a_transcript():
    assert len(FIRST.splitlines()) <= 120
    order = ["pip install torch==", "pip install '.[fast]'", "samba-asr transcribe talk.m4a", "egs/digits/run.sh"]
    assert [FIRST.index(part) for part in order] == sorted(FIRST.index(part) for part in order)
    assert "CPU wheels" in FIRST  # Linux without a GPU: else pip brings gigabytes of CUDA
    assert "Apache-2.0" in FIRST
    assert "What it cannot do" in FIRST


def test_the_first_example_needs_no_extra():
    """talk.m4a, webm and video are read by PyAV, the others by soundfile."""
    needed = {re.split(r"[<>=\[ ;]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert {"torch", "av", "soundfile"} <= needed


@pytest.mark.parametrize("name", ["LICENSE", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_a_company_asks_for(name):
    assert (ROOT / ".github" / name).stat().st_size > 500
    assert PROJECT["license"] == "Apache-2.0"
