"""`samba-asr mic`: speak, and read."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from samba_asr.commands.search_options import MODEL_HELP
from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.recognizer import Recognizer
    from samba_asr.session import Session

Hear = Callable[[str, str], None]
"""Called with "partial" or "final", and its text."""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "mic",
        help="speak, and read",
        description="Listen to the microphone and write what is said: each segment on a line of stdout when it is over, what is "
        "being said on stderr.  Ctrl-C ends it, and nothing said before is lost.  The model runs here, or in a service "
        "(--url), whose bearer token is read from the environment variable SAMBA_ASR_TOKEN.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--model", metavar="DIR", help=MODEL_HELP)
    where.add_argument("--url", metavar="WS", help="a service, such as ws://127.0.0.1:8000")
    parser.add_argument("--device", default="auto", help="of the model: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument("--latency-ms", type=float, default=640.0, metavar="N", help="default: %(default)g")
    parser.add_argument(
        "--hotword", action="append", default=[], dest="hotwords", metavar="PHRASE", help="as in transcribe"
    )
    parser.add_argument("--microphone", metavar="N|NAME", help="number or part of the name (default: the system's)")
    parser.add_argument("--seconds", type=float, metavar="S", help="end by itself after so much (default: on Ctrl-C)")
    parser.add_argument("--list", action="store_true", help="list the microphones, and end")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr.audio.microphone import Microphone, devices
    from samba_asr.commands.transcribe import Line
    from samba_asr.config import HotwordsConfig
    from samba_asr.decoding.hotwords import parse

    if args.list:
        print(devices())
        return 0
    if args.seconds is not None and not args.seconds > 0:
        raise UserError(f"--seconds {args.seconds:g} must be positive")
    device = int(args.microphone) if (args.microphone or "").isdigit() else args.microphone
    show = Line()

    def hear(kind: str, text: str) -> None:
        if kind == "partial":
            return show(text)
        show.close()
        print(text, flush=True)

    hotwords = parse(args.hotwords, HotwordsConfig().weight)
    microphone = Microphone(device)
    open_ear = remote if args.url else local
    ear = open_ear(args, microphone.rate, hotwords, hear)  # before anything is heard: a model takes seconds to load
    before = signal.getsignal(signal.SIGINT)

    def end(*_) -> None:
        """A first Ctrl-C ends the sentence, the next one the program."""
        signal.signal(signal.SIGINT, before)
        microphone.stop()

    signal.signal(signal.SIGINT, end)
    heard = 0
    try:
        with microphone:
            print(f"listening to {microphone.name}; Ctrl-C ends it", file=sys.stderr)
            for samples in microphone:
                ear.send(samples)
                heard += len(samples)
                if args.seconds is not None and heard >= args.seconds * microphone.rate:
                    break
        signal.signal(signal.SIGINT, before)
        ear.finish()
    finally:
        signal.signal(signal.SIGINT, before)
        show.close()
    if microphone.overflowed:
        print("samba-asr mic: the system lost some audio on the way: it was too busy", file=sys.stderr)
    return 0


def remote(args: argparse.Namespace, rate: int, hotwords: Mapping[str, float], hear: Hear):
    from samba_asr.client import Client

    def told(message) -> None:
        if message["type"] in ("partial", "final"):
            hear(message["type"], message["text"])

    token = os.environ.get("SAMBA_ASR_TOKEN")
    return Client(args.url, rate=rate, latency_ms=args.latency_ms, hotwords=hotwords, token=token, on_message=told)


def local(args: argparse.Namespace, rate: int, hotwords: Mapping[str, float], hear: Hear) -> Local:
    from samba_asr.commands.search_options import load_recognizer

    recognizer = load_recognizer(args.model, args.device, needs=["hotwords"] if hotwords else [])
    return Local(recognizer, recognizer.session(rate, latency_ms=args.latency_ms, hotwords=hotwords or None), hear)


class Local:
    """A session of a recognizer in this process, used like a client."""

    def __init__(self, recognizer: Recognizer, session: Session, hear: Hear):
        self.recognizer, self.session, self.hear = recognizer, session, hear

    def send(self, samples: np.ndarray) -> None:
        """The next chunk, float32 (s,)."""
        self.session.feed(samples)
        self._advance()

    def finish(self) -> None:
        """The end of the audio."""
        self.session.end()
        self._advance()

    def _advance(self) -> None:
        from samba_asr.session import Final, Partial

        for event in self.recognizer.events(self.session):
            if isinstance(event, Final):
                self.hear("final", event.segment.text)
            elif isinstance(event, Partial) and event.text:
                self.hear("partial", event.text)
