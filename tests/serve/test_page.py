"""The page in a real browser, with a microphone that plays a clip: its text is the transcript."""

from __future__ import annotations

import shutil
import time
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
from tests.support.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLIP = Path(__file__).parents[2] / "egs" / "digits" / "data" / "audio" / "bf_lily.opus"

pytestmark = [
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


def test_what_is_spoken_stands_on_the_page(page, box, tmp_path):
    page.keyboard.press("Space")
    page.fill("#token", "secret")  # it is asked for
    page.keyboard.press("Enter")
    wait(page, "listening")
    time.sleep(8.0)
    page.keyboard.press("Escape")
    page.click("#mic")
    wait(page, "done")
    text = page.inner_text("#finals").split()
    expected = box.transcribe(tmp_path / "mic.wav", latency_ms=640).text.split()
    assert len(expected) > 4
    assert text == expected
    with page.expect_download() as got:
        page.click("[data-form=srt]")
    assert "-->" in Path(got.value.path()).read_text()
    page.click("#clear")
    page.set_input_files("#file", str(CLIP))
    page.wait_for_selector(".word", timeout=60_000)
    assert page.inner_text("#finals").split() == box.transcribe(CLIP).text.split()
    assert page.problems == []
