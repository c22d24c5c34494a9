"""`samba-asr serve`: the transcription service."""

from __future__ import annotations

import argparse
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from samba_asr.commands.search_options import add_settings
from samba_asr.errors import UserError, missing_extra
from samba_asr.serve.settings import Settings, bounds, from_outside

NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)
LOCAL = ("127.0.0.1", "localhost", "::1")


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "serve",
        help="transcription over HTTP and WebSocket",
        description="Serve a model: WS /v1/stream (live), POST /v1/audio/transcriptions (OpenAI's call), /docs.  Bearer tokens "
        "are read from the environment variable SAMBA_ASR_TOKENS, separated by commas; every number below can be set there too, "
        "as SAMBA_ASR_MAX_SESSIONS.",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="[NAME=]DIR",
        help="folders, or models in the box: english (default), digits.  Clients ask for them by NAME, or the folder's name; "
        "those who ask for none get the first.  SIGHUP reads all of them anew, while sessions go on",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: %(default)s; 0 takes a free one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    add_settings(parser)
    for one in bounds():
        default = one.default if isinstance(one.default, int) else f"{one.default:g}"
        parser.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=type(one.default),
            metavar="N",
            help=f"{one.metadata['help']} (default: {default})",
        )
    parser.add_argument("--origin", nargs="+", default=[], metavar="URL", help="pages of other sites that may connect")
    parser.add_argument(
        "--log", choices=["text", "json"], default="text", help="form of the log (default: %(default)s)"
    )
    parser.add_argument(
        "--open", action="store_true", help="let anybody in who reaches --host, without tokens, by any name"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    try:
        from samba_asr.serve.app import create_app
        from samba_asr.serve.server import Server
    except ImportError as error:
        raise missing_extra(error.name or "fastapi", "serve") from error
    from samba_asr.serve.logs import set_up
    from samba_asr.serve.models import load

    tokens = tuple(token.strip() for token in os.environ.get("SAMBA_ASR_TOKENS", "").split(",") if token.strip())
    if args.host not in LOCAL and not tokens and not args.open:
        raise UserError(
            f"--host {args.host} is reachable from other machines: set SAMBA_ASR_TOKENS, or say --open to let anybody in"
        )
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read anew
    settings = Settings(
        models=named(args.model),
        device=args.device,
        decode=tuple(args.overrides),
        tokens=tokens,
        origins=tuple(args.origin),
        local=args.host in LOCAL and not args.open,
        **from_outside(vars(args), os.environ),
    )
    app = create_app(settings, load(settings))  # what is wrong with a model is told before a port is taken
    set_up(args.log)
    Server(app, host=args.host, port=args.port).run()
    return 0


def named(models: Sequence[str]) -> dict[str, Path | None]:
    """NAME=FOLDER, or a folder or a model in the box, which have names; UserError for two of one name."""
    found: dict[str, Path | None] = {}
    for text in models or ["english"]:
        name, equals, folder = text.rpartition("=")
        name = name if equals else Path(folder).resolve().name
        if not NAME.fullmatch(name):
            raise UserError(f"--model {text}: the name {name!r} is not made of letters, digits, - _ and .")
        if name in found:
            raise UserError(
                f"--model {text}: there is a model {name} already; call this one otherwise, as NAME={folder}"
            )
        found[name] = Path(folder)
    return found
