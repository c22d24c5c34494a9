"""`samba-asr bench soak`: a service under clients of every sort, for an hour or as long as one likes."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile

from samba_asr.commands.bench_common import add_service
from samba_asr.errors import UserError

HEAD = ("minutes", "clients ended", "refused", "lost", "differing", "wrong", "MiB", "errors in the log")


def add_parser(kinds) -> None:
    parser = kinds.add_parser(
        "soak",
        help="the service, for long",
        description="Start a service and let clients join, leave, stall and die on it, and speak bad HTTP, as many at a time as "
        "one likes; check every text and the answers to what is bad, watch memory and the log.  Status 1 if a text was lost or "
        "is not the recogniser's, if something bad was answered wrongly, if a place is not free when all have gone, if the log "
        "holds an error, or if memory still grows after ten minutes.",
    )
    add_service(parser)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="default: 60")
    parser.add_argument("--clients", type=int, default=12, metavar="N", help="at a time (default: %(default)s)")
    parser.add_argument(
        "--max-sessions",
        type=int,
        default=10,
        metavar="N",
        help="of the service; below --clients, some are refused (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from samba_asr.bench.service import clips, running, texts
    from samba_asr.bench.soak import Soak, Tally
    from samba_asr.recognizer import Recognizer

    if min(args.minutes, args.clients, args.seconds) <= 0:
        raise UserError(
            f"--minutes {args.minutes:g} --clients {args.clients} --seconds {args.seconds:g}: all must be positive"
        )
    recognizer = Recognizer.load(args.model, device=args.device, settings=args.overrides)
    rate, speech = recognizer.rate, clips(args.data, recognizer.rate, args.seconds)
    expected = texts(recognizer, speech, args.latency_ms)
    del recognizer
    with tempfile.NamedTemporaryFile("w+", suffix=".jsonl") as log:
        print("  ".join(HEAD))

        def tell(tally: Tally) -> None:
            minutes, mib = tally.memory[-1][0] / 60, tally.memory[-1][1]
            cells = [f"{minutes:.1f}", tally.ended.total(), tally.refused, tally.lost, tally.differing]
            cells += [tally.wrong.total(), f"{mib:.0f}", len(_errors(log.name))]
            print("  ".join(str(cell).rjust(len(head)) for cell, head in zip(cells, HEAD, strict=True)), flush=True)

        with running(args.model, args.device, args.overrides, args.max_sessions, log) as service:
            soak = Soak(service.url, service.pid, speech, expected, rate, args.latency_ms)
            tally = asyncio.run(soak.run(args.clients, 60 * args.minutes, min(60.0, 6 * args.minutes), tell))
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
    """Lines of the log that tell of an error: whatever clients did, there should be none."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file]
    return [line for line in lines if line and not _harmless(line)]


def _harmless(line: str) -> bool:
    try:
        return json.loads(line)["level"] in ("DEBUG", "INFO", "WARNING")
    except (ValueError, KeyError, TypeError):
        return False
