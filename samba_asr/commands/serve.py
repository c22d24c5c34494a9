"""`samba-asr serve`: the transcription service."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
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
        help="serve transcription over HTTP and WebSocket",
        description="Serve models: WS /v1/stream (live), POST /v1/audio/transcriptions (OpenAI's call), /docs.  Bearer tokens "
        "are read from the environment variable SAMBA_ASR_TOKENS, separated by commas.  Every number below can be set in the "
        "environment too, as SAMBA_ASR_MAX_SESSIONS.",
    )
    parser.add_argument(
        "--model",
        nargs="+",
        default=[],
        metavar="[NAME=]DIR",
        help="model folders, or names of shipped models: english (default), digits.  Clients select one by NAME, or the folder's "
        "name; the first is the default.  SIGHUP reloads all of them while sessions continue",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, only this machine)"
    )
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="port (default: %(default)s; 0: a free one)"
    )
    parser.add_argument(
        "--wyoming",
        type=int,
        metavar="PORT",
        help="speak the Wyoming protocol of Home Assistant too, on this TCP port of --host; usual is 10300.  It has no tokens",
    )
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: auto)")
    add_settings(parser)
    for one in bounds():
        default = one.default if isinstance(one.default, int) else f"{one.default:g}"
        parser.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=type(one.default),
            metavar="N",
            help=f"{one.metadata['help']} (default: {default})",
        )
    parser.add_argument("--origin", nargs="+", default=[], metavar="URL", help="other sites whose pages may connect")
    parser.add_argument(
        "--log", choices=["text", "json"], default="text", help="format of the log (default: %(default)s)"
    )
    parser.add_argument(
        "--open",
        action="store_true",
        help="accept every client that reaches --host, without tokens and by any host name",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    try:
        from samba_asr.serve.app import create_app
        from samba_asr.serve.server import Server
        from samba_asr.serve.wyoming import listening
    except ImportError as error:
        raise missing_extra(error.name or "fastapi", "serve") from error
    from samba_asr.serve.logs import set_up
    from samba_asr.serve.models import load

    tokens = tuple(token.strip() for token in os.environ.get("SAMBA_ASR_TOKENS", "").split(",") if token.strip())
    if args.host not in LOCAL and not tokens and not args.open:
        raise UserError(
            f"--host {args.host} is reachable from other machines: set SAMBA_ASR_TOKENS, or give --open to accept every client"
        )
    if args.wyoming is not None and not args.open and (tokens or args.host not in LOCAL):
        raise UserError(
            f"--wyoming {args.wyoming}: this protocol has no tokens: give --open to accept every client that reaches its port"
        )
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    settings = Settings(
        models=named(args.model),
        device=args.device,
        decode=tuple(args.overrides),
        tokens=tokens,
        origins=tuple(args.origin),
        local=args.host in LOCAL and not args.open,
        **from_outside(vars(args), os.environ),
    )
    if args.log == "text":
        print(
            f"loading {', '.join(settings.models)}; then open the address that follows `ready`",
            file=sys.stderr,
            flush=True,
        )
    set_up(args.log)  # what loading says is in the log too
    recognizers = load(settings)  # reports a wrong model before the port is opened
    wyoming = None if args.wyoming is None else listening(args.host, args.wyoming)
    app = create_app(settings, recognizers)
    del recognizers  # the application frees replaced models
    Server(app, wyoming=wyoming, host=args.host, port=args.port).run()
    return 0


def named(models: Sequence[str]) -> dict[str, Path | None]:
    """Parse NAME=FOLDER, a folder or the name of a shipped model; UserError if two models have one name."""
    found: dict[str, Path | None] = {}
    for text in models or ["english"]:
        name, equals, folder = text.rpartition("=")
        name = name if equals else Path(folder).resolve().name.partition("@")[0]
        if not NAME.fullmatch(name):
            raise UserError(
                f"--model {text}: the name {name!r} may have only letters, digits, - _ and .: give NAME=FOLDER"
            )
        if name in found:
            raise UserError(
                f"--model {text}: there is a model {name} already; give this one another name, as NAME={folder}"
            )
        found[name] = Path(folder)
    return found
