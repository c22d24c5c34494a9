"""`samba-asr mcp`, by the package's own client: its tools, and what they must not read."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("mcp")

from mcp import Client

from samba_asr.commands.mcp import server
from tests.support.sound import encoded, noise


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "talk.wav").write_bytes(encoded(noise(1.0)))
    (tmp_path / "other.wav").write_bytes(encoded(noise(1.0)))
    (tmp_path / "own" / "link.wav").symlink_to(tmp_path / "other.wav")
    return tmp_path / "own"


def call(recognizer, folder, tool, **given):
    async def run():
        async with Client(server(recognizer, folder)) as client:
            return await client.call_tool(tool, given)

    return asyncio.run(run())


def test_a_file_is_transcribed_as_by_the_command(recognizer, folder):
    done = call(recognizer, folder, "transcribe", path="talk.wav")
    assert not done.is_error
    assert done.content[0].text == recognizer.transcribe(folder / "talk.wav", text="written").readable != ""
    assert "-->" in call(recognizer, folder, "transcribe", path="talk.wav", format="srt").content[0].text


def test_a_text_is_aligned(recognizer, folder):
    done = call(recognizer, folder, "align", path="talk.wav", text="a bad cab")
    words = recognizer.align(folder / "talk.wav", "a bad cab").words
    assert [(w["word"], w["start"]) for w in done.structured_content["result"]] == [(w.text, w.start) for w in words]


@pytest.mark.parametrize("path", ["../other.wav", "link.wav", "none.wav", ".", "/etc/passwd", "a\0b", "x" * 5000])
def test_only_files_of_the_folder_are_read(recognizer, folder, path):
    done = call(recognizer, folder, "transcribe", path=path)
    assert done.is_error
    assert "no such file in" in done.content[0].text
