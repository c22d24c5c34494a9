"""`samba-asr mcp`: tools for assistants that speak the Model Context Protocol, over standard input and output.

The tools read only files of one folder: an assistant may be talked into anything by what it reads.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from samba_asr.commands.search_options import MODEL_HELP
from samba_asr.errors import UserError, missing_extra

if TYPE_CHECKING:
    from samba_asr.recognizer import Recognizer

LONGEST = 4 * 3600.0  # seconds of audio in one call


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "mcp",
        help="give assistants the tools transcribe and align (MCP)",
        description="Serve the tools transcribe and align over the Model Context Protocol, on standard input and output.  An "
        "assistant starts this command itself: name it in the assistant's list of MCP servers.",
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(), help="folder whose files may be read (default: this one)"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help=MODEL_HELP)
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr.recognizer import Recognizer

    if not args.folder.is_dir():
        raise UserError(f"{args.folder}: no such folder")
    server(Recognizer.load(args.model, device=args.device), args.folder).run()
    return 0


def server(recognizer: Recognizer, folder: Path) -> Any:
    """Make the server, whose tools read only files in `folder`."""
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError as error:
        raise missing_extra("mcp", "mcp") from error
    from samba_asr.formats import render

    folder, found = folder.resolve(), MCPServer("samba_asr", instructions="English speech to text, on this machine.")

    @contextlib.contextmanager
    def errors() -> Iterator[None]:
        """Pass errors of the user on: the package hides others."""
        try:
            yield
        except UserError as error:
            raise ToolError(str(error)) from error

    def inside(path: str) -> str:
        try:
            file = (folder / path).resolve()
            if file.is_relative_to(folder) and file.is_file():
                return str(file)
        except (OSError, ValueError):  # such as a NUL in a name
            pass
        raise UserError(f"{path}: no such file in {folder}")

    @found.tool()
    def transcribe(path: str, format: Literal["text", "srt", "vtt", "json"] = "text") -> str:
        """Transcribe an audio or video file to text, to subtitles, or to JSON with the times and confidences of words."""
        with errors():
            return render(recognizer.transcribe(inside(path), text="written", longest=LONGEST), path, format)

    @found.tool()
    def align(path: str, text: str) -> list[dict[str, Any]]:
        """Find the start and end, in seconds, and the confidence of each word of a text that an audio file says."""
        with errors():
            words = recognizer.align(inside(path), text).words
        return [{"word": w.text, "start": w.start, "end": w.end, "confidence": w.confidence} for w in words]

    return found
