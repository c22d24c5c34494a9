"""The page in a real browser, with a microphone that plays a clip: its text is the transcript, and can be corrected."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
# ruff: noqa: E402
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from samba_asr.audio.read import read
from samba_asr.audio.resample import resample
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from samba_asr.subtitles import subtitles
from tests.support.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLIP = Path(__file__).parents[2] / "egs" / "digits" / "data" / "audio" / "bf_lily.opus"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(not CLIP.exists(), reason="egs/digits/data is not here"),
]


@pytest.fixture(scope="module")
def box() -> Recognizer:
    torch.set_num_threads(1)
    try:
        return Recognizer.load("digits", device="cpu")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def page(box, tmp_path):
    service = Service(box, tokens=("secret",))
    audio = read(CLIP, duration=5.0)
    speech = resample(audio.samples, audio.rate, 48000)
    silence = np.zeros(48000, np.float32)
    soundfile.write(
        tmp_path / "mic.wav", np.concatenate([silence, speech, silence, silence, silence]), 48000, subtype="PCM_16"
    )
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={tmp_path / 'mic.wav'}%noloop",
    ]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 390, "height": 780})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.goto(service.url.replace("ws", "http", 1))
        yield page
        browser.close()
    service.stop()


def wait(page, status: str) -> None:
    page.locator("#status", has_text=status).wait_for(timeout=60_000)


def words(page) -> list[str]:
    return page.locator("#paragraphs .word").all_inner_texts()


def exported(page, form: str) -> tuple[str, str]:
    """Return the name and the text of a file that the page gives."""
    page.click("#export")
    with page.expect_download() as got:
        page.click(f"[data-form={form}]")
    return got.value.suggested_filename, Path(got.value.path()).read_text()


def test_what_is_spoken_stands_on_the_page(page, box, tmp_path):
    page.keyboard.press("Space")
    page.fill("#token", "secret")  # it is asked for
    page.keyboard.press("Enter")
    wait(page, "Listening")
    page.wait_for_timeout(8000)
    page.click("#mic")
    wait(page, "Done")
    expected = box.transcribe(tmp_path / "mic.wav", latency_ms=640)
    assert len(expected.words) > 4
    assert words(page) == expected.text.split()
    assert page.inner_text("#announcer") == expected.segments[-1].text
    page.locator("#paragraphs .word").nth(1).click()  # it is played
    page.locator("#play", has_text="Pause").wait_for(timeout=10_000)
    page.locator("#play", has_text="Play").wait_for(timeout=10_000)
    name, text = exported(page, "srt")
    assert name.startswith("Recording ")
    assert name.endswith(".srt")
    assert len([line for line in text.split("\n") if "-->" in line]) == len(list(subtitles(expected.words)))
    assert page.problems == []


def test_files_are_read_corrected_and_exported(page, box, tmp_path):
    (tmp_path / "rubbish.wav").write_bytes(b"rubbish")
    page.set_input_files("#files", [str(CLIP), str(tmp_path / "rubbish.wav")])
    page.fill("#token", "secret")
    page.keyboard.press("Enter")
    page.locator("#entries .bad", has_text="not audio").wait_for(timeout=60_000)
    assert words(page) == box.transcribe(CLIP).text.split()

    first = page.locator("#paragraphs .word").first
    first.focus()  # the keyboard comes in at the first word
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Alt+Enter")
    assert page.inner_text("#no-alternatives")
    page.fill("#correction", "twenty two")
    page.keyboard.press("Enter")
    assert words(page)[1:3] == ["twenty", "two"]
    page.keyboard.press("F2")
    page.keyboard.press("Control+Home")
    page.keyboard.type("Well: ")
    page.keyboard.press("Control+Enter")
    assert words(page)[:2] == ["Well:", box.transcribe(CLIP).words[0].text]
    name, text = exported(page, "json")
    assert name == f"{CLIP.stem}.json"
    given = json.loads(text)["words"]
    assert given[1] == box.transcribe(CLIP).words[0].entry()
    assert [word["word"] for word in given if word.get("edited")] == ["Well:", "twenty", "two"]
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")
    assert words(page)[1:3] == ["twenty", "two"]
    assert page.problems == []


def test_it_fits_and_follows_the_system_theme(page):
    for width, scheme in ((390, "light"), (390, "dark"), (1280, "dark")):
        page.set_viewport_size({"width": width, "height": 700})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(
            "document.documentElement.scrollWidth <= innerWidth && document.body.scrollHeight <= innerHeight"
        )
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(int(part) for part in re.findall(r"\d+", ground)) < 60) == (scheme == "dark")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
