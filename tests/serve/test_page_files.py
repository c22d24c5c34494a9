"""The page's files: served from a fixed list, under a strict policy, and without a byte from another host."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from samba_asr.serve import access, pages

FILES = sorted(pages.STATIC.iterdir())
SCRIPTS = [file for file in FILES if file.suffix == ".js"]
INDEX = (pages.STATIC / "index.html").read_text()
IDS = set(re.findall(r'\bid="([^"]+)"', INDEX))


@pytest.fixture
def client(start):
    return start(tokens=("secret",))


def test_each_file_is_served_without_a_token_and_no_other(client):
    for file in FILES:
        answer = client.get(f"/{file.name}")
        assert answer.content == file.read_bytes()
        assert answer.headers["content-security-policy"] == access.POLICY
        assert answer.headers["cache-control"] == "no-cache"
        if file.suffix == ".js":
            assert "javascript" in answer.headers["content-type"]  # browsers take modules of no other type
    assert client.get("/").text == INDEX
    for path in ("/app.py", "/../app.py", "/static/page.js", "/..%2fapp.py"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer secret"}).status_code == 404


def test_the_policy_lets_nothing_else_in():
    sources = dict(part.split(" ", 1) for part in access.POLICY.split("; "))
    assert sources == {
        "default-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self' ws: wss:",
        "frame-ancestors": "'none'",
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_comes_from_another_host(file):
    addresses = set(re.findall(r"https?://[^\s\"'`)<]+", file.read_text()))
    assert {a for a in addresses if not a.startswith(("http://localhost", "http://www.w3.org/2000/svg"))} == set()
    if file.suffix == ".html":  # the policy would block these silently
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", file.read_text())
    if file.suffix == ".js":
        assert not re.search(r"\beval\(|new Function|innerHTML|document\.write", file.read_text())


def test_what_the_files_name_exists():
    for file in SCRIPTS:
        for name in re.findall(r'(?:from |import\(|addModule\()"\./?([^"]+)"', file.read_text()):
            assert (pages.STATIC / name).is_file(), (file.name, name)
    for name in re.findall(r'(?:src|href)="([^":#]+)"', INDEX):
        assert (pages.STATIC / name).is_file() or name == "docs", name
    assert (pages.STATIC / "capture.js").is_file()
    assert 'addModule("capture.js")' in (pages.STATIC / "live.js").read_text()


def test_the_elements_that_the_scripts_use_exist():
    used = set()
    for file in SCRIPTS:
        text = file.read_text()
        used |= set(re.findall(r'(?:\$|getElementById)\("([^"]+)"\)', text))
        used |= set(re.findall(r'querySelector\("#([\w-]+)', text))
        for ids in re.findall(r"const id of \[([^\]]+)\]", text):
            used |= set(re.findall(r'"([^"]+)"', ids))
    assert used - IDS == set()
    assert len(used) > 40  # the patterns still find them
    fields = set(re.findall(r'<(?:select|input|textarea) name="(\w+)"', INDEX))
    assert {"model", "latency", "text", "digits", "hotwords", "confidence", "numbers", "meter"} <= fields
    assert len(re.findall(r'\bid="', INDEX)) == len(IDS)  # none twice


def test_finals_alone_are_announced():
    live = re.findall(r'<[^>]*(?:aria-live|role="(?:log|status|alert)")[^>]*>', INDEX)
    assert [re.search(r'id="([^"]+)"', tag) and re.search(r'id="([^"]+)"', tag)[1] for tag in live] == [
        "status",
        "announcer",
        None,  # of the captions
    ]
    for name in ("partial", "caption-partial"):
        assert re.search(rf'id="{name}"[^>]*aria-hidden="true"', INDEX)
