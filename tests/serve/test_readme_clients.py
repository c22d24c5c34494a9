"""The clients of serve/README.md, as they stand there, against a service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from tests.support.node import node
from tests.support.service import serving
from tests.support.sound import noise

README = Path(__file__).parents[2] / "serve" / "README.md"


def block(language: str, mark: str) -> str:
    (code,) = [code for code in re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL) if mark in code]
    return code


@pytest.mark.parametrize("language", ["python", "js"])
def test_a_client_of_a_few_lines(recognizer, tmp_path, language):
    code = block(language, "websockets.connect" if language == "python" else "new WebSocket")
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    soundfile.write(tmp_path / "a.wav", noise(2.0), 16000, subtype="PCM_16")
    command = sys.executable if language == "python" else node()
    if command is None:
        pytest.skip("no Node of 22 or newer")
    program = tmp_path / ("client.py" if language == "python" else "client.mjs")
    with serving(recognizer) as service:
        program.write_text(code.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}"))
        done = subprocess.run(
            [command, str(program), "a.wav"], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    latency = service.server.app.state.settings.latency_ms
    assert " ".join(done.stdout.split()) == recognizer.transcribe(tmp_path / "a.wav", latency_ms=latency).text != ""
