"""`samba-asr stream`: send an audio file to a running service in real time."""

from __future__ import annotations

import argparse
import os
import sys
import time

from samba_asr.commands.text_options import add_text
from samba_asr.errors import UserError

CHUNK = 0.1  # seconds


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "stream",
        help="send an audio file to a running service",
        description="Send an audio file to a running service (samba-asr serve) in real time and print the text.  Partial results "
        "go to stderr.  A broken connection is opened again without loss.  A bearer token is read from the environment variable "
        "SAMBA_ASR_TOKEN.",
    )
    parser.add_argument("file", metavar="FILE", help="audio file of any format")
    parser.add_argument("--url", default="ws://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--model", default="", metavar="NAME", help="model of the service (default: its first)")
    parser.add_argument("--latency-ms", type=float, metavar="N", help="as in transcribe (default: the service's)")
    parser.add_argument("--fast", action="store_true", help="send as fast as the service receives, not in real time")
    parser.add_argument(
        "--hotword", action="append", default=[], dest="hotwords", metavar="PHRASE", help="as in samba-asr transcribe"
    )
    add_text(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr.audio.read import stream as read_stream
    from samba_asr.client import Client
    from samba_asr.commands.terminal import PartialLine
    from samba_asr.config import HotwordsConfig
    from samba_asr.decoding.hotwords import parse

    show = PartialLine()

    def on_message(message) -> None:
        if message["type"] in ("partial", "final"):
            show(message["text"])

    client, began, sent = None, time.monotonic(), 0.0
    try:
        for audio in read_stream(args.file, CHUNK):
            client = client or Client(
                args.url,
                rate=audio.rate,
                model=args.model,
                latency_ms=args.latency_ms,
                on_message=on_message,
                hotwords=parse(args.hotwords, HotwordsConfig().weight),
                text=args.text or "written",
                digits=not args.no_itn,
                token=os.environ.get("SAMBA_ASR_TOKEN"),
            )
            if not args.fast:
                time.sleep(max(0.0, sent - (time.monotonic() - began)))
            client.send(audio.samples)
            sent += len(audio.samples) / audio.rate
        if client is None:
            raise UserError(f"{args.file} has no audio")
        text = client.finish()
    finally:
        show.close()
    print(text)
    sys.stdout.flush()
    return 0
