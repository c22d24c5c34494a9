"""`samba-asr mic`: transcribe the microphone."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from samba_asr.commands.search_options import MODEL_HELP
from samba_asr.commands.text_options import add_text
from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.recognizer import Recognizer
    from samba_asr.session import Session

OnText = Callable[[str, str], None]
"""Callback for results: "partial" or "final", and the text."""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "mic",
        help="transcribe the microphone",
        description="Transcribe the microphone.  Each finished segment is a line on stdout; partial results go to stderr.  "
        "Ctrl-C ends the recording, and its last text is completed.  The model runs here, or in a service (--url), whose bearer "
        "token is read from the environment variable SAMBA_ASR_TOKEN.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--model", metavar="DIR", help=MODEL_HELP)
    where.add_argument("--url", metavar="WS", help="address of a service, such as ws://127.0.0.1:8000")
    parser.add_argument("--device", default="auto", help="device of the model: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "--latency-ms", type=float, default=640.0, metavar="N", help="as in transcribe (default: %(default)g)"
    )
    parser.add_argument(
        "--hotword", action="append", default=[], dest="hotwords", metavar="PHRASE", help="as in transcribe"
    )
    parser.add_argument("--microphone", metavar="N|NAME", help="number or part of the name (default: the system's)")
    parser.add_argument("--seconds", type=float, metavar="S", help="end after so many seconds (default: on Ctrl-C)")
    parser.add_argument("--list", action="store_true", help="list the microphones and exit")
    add_text(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr.audio.microphone import Microphone, devices
    from samba_asr.commands.terminal import PartialLine
    from samba_asr.config import HotwordsConfig
    from samba_asr.decoding.hotwords import parse

    if args.list:
        print(devices())
        return 0
    if args.seconds is not None and not args.seconds > 0:
        raise UserError(f"--seconds {args.seconds:g} must be positive")
    device = int(args.microphone) if (args.microphone or "").isdigit() else args.microphone
    show = PartialLine()

    def on_text(kind: str, text: str) -> None:
        if kind == "partial":
            return show(text)
        show.close()
        print(text, flush=True)

    hotwords = parse(args.hotwords, HotwordsConfig().weight)
    microphone = Microphone(device)
    connect = remote if args.url else local
    session = connect(args, microphone.rate, hotwords, on_text)  # before recording: a model takes seconds to load
    before = signal.getsignal(signal.SIGINT)

    def end(*_) -> None:
        """Stop recording on the first Ctrl-C; the next one ends the program."""
        signal.signal(signal.SIGINT, before)
        microphone.stop()

    signal.signal(signal.SIGINT, end)
    received = 0
    try:
        with microphone:
            print(f"listening to {microphone.name}; press Ctrl-C to end", file=sys.stderr)
            for samples in microphone:
                session.send(samples)
                received += len(samples)
                if args.seconds is not None and received >= args.seconds * microphone.rate:
                    break
        signal.signal(signal.SIGINT, before)
        session.finish()
    finally:
        signal.signal(signal.SIGINT, before)
        show.close()
    if microphone.overflowed:
        print("samba-asr mic: some audio was lost, because the system was too busy", file=sys.stderr)
    return 0


def remote(args: argparse.Namespace, rate: int, hotwords: Mapping[str, float], on_text: OnText):
    """Connect to a service."""
    from samba_asr.client import Client

    def on_message(message) -> None:
        if message["type"] in ("partial", "final"):
            on_text(message["type"], message["text"])

    token = os.environ.get("SAMBA_ASR_TOKEN")
    return Client(
        args.url,
        rate=rate,
        latency_ms=args.latency_ms,
        hotwords=hotwords,
        text=args.text or "written",
        digits=not args.no_itn,
        token=token,
        on_message=on_message,
    )


def local(args: argparse.Namespace, rate: int, hotwords: Mapping[str, float], on_text: OnText) -> Local:
    """Load a model in this process."""
    from samba_asr.commands.search_options import load_recognizer

    recognizer = load_recognizer(args.model, args.device, needs=["hotwords"] if hotwords else [])
    recognizer.warm()  # the first compilation takes seconds; speech in that time would have to wait
    session = recognizer.session(
        rate, latency_ms=args.latency_ms, hotwords=hotwords or None, text=args.text or "written", digits=not args.no_itn
    )
    return Local(recognizer, session, on_text)


class Local:
    """A session of a recognizer in this process, used like a client."""

    def __init__(self, recognizer: Recognizer, session: Session, on_text: OnText):
        self.recognizer, self.session, self.on_text = recognizer, session, on_text

    def send(self, samples: np.ndarray) -> None:
        """Process the next chunk, float32 (s,)."""
        self.session.feed(samples)
        self._advance()

    def finish(self) -> None:
        """End the audio."""
        self.session.end()
        self._advance()

    def _advance(self) -> None:
        from samba_asr.session import Final, Partial

        for event in self.recognizer.events(self.session):
            if isinstance(event, Final):
                self.on_text("final", event.segment.readable)
            elif isinstance(event, Partial) and event.text:
                self.on_text("partial", event.readable)
