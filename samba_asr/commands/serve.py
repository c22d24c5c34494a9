"""`samba-asr serve`: the transcription service."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from samba_asr.errors import UserError, missing_extra

LOCAL = ("127.0.0.1", "localhost", "::1")


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "serve",
        help="transcription over HTTP and WebSocket",
        description="Serve a model: WS /v1/stream (live), POST /v1/audio/transcriptions (OpenAI's call), /docs.  Bearer tokens "
        "are read from the environment variable SAMBA_ASR_TOKENS, separated by commas.",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="a folder, or one in the box: digits (default), english")
    parser.add_argument("--name", default="samba-asr", help="as clients call it (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: %(default)s; 0 takes a free one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--latency-ms", type=float, default=640.0, metavar="N", help="of live sessions (default: 640)")
    parser.add_argument("--max-sessions", type=int, default=64, metavar="N", help="at a time (default: %(default)s)")
    parser.add_argument("--origin", nargs="+", default=[], metavar="URL", help="pages of other sites that may connect")
    parser.add_argument("--open", action="store_true", help="let anybody in who reaches --host, without tokens")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    try:
        import uvicorn

        from samba_asr.serve.app import create_app
    except ImportError as error:
        raise missing_extra(error.name or "fastapi", "serve") from error
    from samba_asr.recognizer import Recognizer
    from samba_asr.serve.settings import Settings

    tokens = tuple(token.strip() for token in os.environ.get("SAMBA_ASR_TOKENS", "").split(",") if token.strip())
    if args.host not in LOCAL and not tokens and not args.open:
        raise UserError(
            f"--host {args.host} is reachable from other machines: set SAMBA_ASR_TOKENS, or say --open to let anybody in"
        )
    settings = Settings(
        model=args.model, name=args.name, device=args.device, latency_ms=args.latency_ms, max_sessions=args.max_sessions,
        tokens=tokens, origins=tuple(args.origin),
    )  # fmt: skip
    recognizer = Recognizer.load(args.model, device=args.device)  # what is wrong with it is told before a port is taken
    recognizer.block(args.latency_ms)
    app = create_app(settings, recognizer)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets=None) -> None:
            """Uvicorn would close live sessions first; here they are told what they are owed before."""
            await asyncio.to_thread(app.state.engine.close, settings.grace_seconds)
            await asyncio.sleep(0.2)  # for the last messages to leave
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app, host=args.host, port=args.port, ws_max_size=settings.max_message_bytes, ws_per_message_deflate=False,
        timeout_graceful_shutdown=5, log_level="info",
    )  # fmt: skip
    Server(config).run()
    return 0
