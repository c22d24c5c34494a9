"""`samba-asr bench soak`: test a service with clients of all kinds, for an hour or any other time."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import tempfile

from samba_asr.commands.bench_common import add_service
from samba_asr.errors import UserError

HEAD = ("minutes", "clients ended", "refused", "lost", "differing", "wrong", "MiB", "errors in the log")


def add_parser(kinds) -> None:
    parser = kinds.add_parser(
        "soak",
        help="endurance test of the service",
        description="Start a service with many clients that join, leave, stall, crash or send bad HTTP.  Check all texts and all "
        "answers to bad requests, and watch memory and the log.  The status is 1 if a text was lost or differs from the "
        "recognizer's, if a bad request was answered wrongly, if a place is not free after all clients have left, if the log has "
        "an error, or if memory still grows after ten minutes.",
    )
    add_service(parser)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="duration (default: 60)")
    parser.add_argument("--clients", type=int, default=12, metavar="N", help="clients at a time (default: %(default)s)")
    parser.add_argument(
        "--max-sessions",
        type=int,
        default=10,
        metavar="N",
        help="limit of the service; below --clients some are refused (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from samba_asr.bench.service import clips, running, texts
    from samba_asr.bench.soak import Soak, Tally
    from samba_asr.recognizer import Recognizer
    from samba_asr.serve.settings import NOT_LIVE

    if min(args.minutes, args.clients, args.seconds) <= 0:
        raise UserError(
            f"--minutes {args.minutes:g} --clients {args.clients} --seconds {args.seconds:g}: all must be positive"
        )
    recognizer = Recognizer.load(args.model, device=args.device, settings=(NOT_LIVE, *args.overrides))
    rate, speech = recognizer.rate, clips(args.data, recognizer.rate, args.seconds)
    expected = texts(recognizer, speech, args.latency_ms)
    del recognizer
    with tempfile.NamedTemporaryFile("w+", suffix=".jsonl") as log:
        print("  ".join(HEAD))

        def report(tally: Tally) -> None:
            minutes, mib = tally.memory[-1][0] / 60, tally.memory[-1][1]
            cells = [f"{minutes:.1f}", tally.ended.total(), tally.refused, tally.lost, tally.differing]
            cells += [tally.wrong.total(), f"{mib:.0f}", len(_errors(log.name))]
            print("  ".join(str(cell).rjust(len(head)) for cell, head in zip(cells, HEAD, strict=True)), flush=True)

        wyoming = importlib.util.find_spec("wyoming") is not None
        with running(args.model, args.device, args.overrides, args.max_sessions, log, wyoming) as service:
            soak = Soak(service.url, service.pid, speech, expected, rate, args.latency_ms, service.wyoming)
            tally = asyncio.run(soak.run(args.clients, 60 * args.minutes, min(60.0, 6 * args.minutes), report))
        errors = _errors(log.name)
    print(", ".join(f"{sort} {count}" for sort, count in sorted(tally.ended.items())))
    print(f"memory over the second half: {tally.growth():+.1f} MiB an hour")
    held = {kind: count for kind, count in tally.held.items() if count}
    print(f"held at the end: {held}" if held else "all places are free at the end")
    for kind, count in tally.wrong.items():
        if count:
            print(f"answered wrongly: {kind} {count}")
    for line in errors[:10]:
        print(line)
    return int(bool(tally.lost or tally.differing or tally.wrong.total() or held or errors or not tally.flat))


def _errors(path: str) -> list[str]:
    """Return the lines of the log with errors; no client's behavior should cause one."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file]
    return [line for line in lines if line and not _harmless(line)]


def _harmless(line: str) -> bool:
    try:
        return json.loads(line)["level"] in ("DEBUG", "INFO", "WARNING")
    except (ValueError, KeyError, TypeError):
        return False
