"""`samba-asr bench serve`: measure how many clients a service can serve at once."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from samba_asr.commands.bench_common import add_service
from samba_asr.errors import UserError

CLIENTS = (1, 4, 16, 32, 48, 64, 96)
HEAD = (
    "clients",
    "refused",
    "lost",
    "differing",
    "partial p50",
    "p95 ms",
    "first p50",
    "final (a) p95",
    "(b) p95 ms",
    "cores",
    "MiB",
)


TURNS = {
    "final (a) p50": "final_p50",
    "eager (b) p50": "eager_p50",
    "p95": "eager_p95",
    "end (b) p50": "turns_p50",
    "p95 ms": "turns_p95",
}
"""Latencies of the columns with --turns."""


def add_parser(kinds) -> None:
    parser = kinds.add_parser(
        "serve",
        help="latency and capacity of the service",
        description="Start a service and send it speech in real time, from more and more clients.  partial: milliseconds from "
        "sending audio to a partial result that covers it; words at the beginning of an encoder block wait for the block "
        "(--latency-ms) as well.  final a: from stop to the last final.  final b: from the end of a segment's last word to its "
        "final, with the wait of the endpoint (decode.endpoint.pause).  differing: texts that differ from those of the "
        "recognizer alone.  With --turns each client speaks whole utterances with 2 s of silence between them, and eager "
        "and final ends of turn are measured too: (b) from the last sound, early ones an hour, and the word error rate.",
    )
    add_service(parser)
    parser.add_argument(
        "--clients", type=int, nargs="+", default=CLIENTS, metavar="N", help="default: 1 4 16 32 48 64 96"
    )
    parser.add_argument(
        "--max-sessions", type=int, default=64, metavar="N", help="limit of the service (default: %(default)s)"
    )
    parser.add_argument("--turns", action="store_true", help="measure ends of turn too")
    parser.add_argument(
        "--eager-ms", type=float, default=320.0, metavar="N", help="silence of an eager end (default: %(default)g)"
    )
    parser.add_argument("--end-ms", type=float, metavar="N", help="silence of an end (default: decode.endpoint.pause)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from samba_asr.bench.measure import hardware
    from samba_asr.bench.serve import measure
    from samba_asr.bench.service import DIGITS, clips, running, texts
    from samba_asr.bench.turns import talks
    from samba_asr.decoding.turns import TurnRules
    from samba_asr.recognizer import Recognizer
    from samba_asr.serve.settings import NOT_LIVE

    if min(args.clients) < 1 or args.seconds <= 0:
        raise UserError(f"--clients {min(args.clients)} --seconds {args.seconds:g}: both must be positive")
    recognizer = Recognizer.load(args.model, device=args.device, settings=(NOT_LIVE, *args.overrides))
    rate, spoken, rules, asked = recognizer.rate, None, None, None
    if args.turns:
        rules = TurnRules(args.eager_ms / 1000, args.end_ms and args.end_ms / 1000)
        asked = {"turns": True, "eager_ms": args.eager_ms, "end_ms": args.end_ms}
        recognizer.session(turns=rules)  # reports wrong silences now
        spoken = talks(args.data or DIGITS, rate, args.seconds)
    speech = [talk.samples for talk in spoken] if spoken else clips(args.data, rate, args.seconds)
    expected = texts(recognizer, speech, args.latency_ms, rules)
    rows = []
    with running(args.model, args.device, args.overrides, args.max_sessions) as service:
        if not args.json:
            print("  ".join(HEAD))
        for n in args.clients:
            row = measure(
                service.url, speech, expected, n, rate, args.latency_ms, service.pid, talks=spoken, turns=asked
            )
            rows.append(row)
            if not args.json:
                print(_line(row), flush=True)
                if row.get("wer") is not None:
                    print(_turns(row), flush=True)
            time.sleep(1.0)
    if args.json:
        print(json.dumps({"hardware": hardware(str(recognizer.runtime.device)), "rows": rows}, indent=2))
    return 0


def _line(row: dict[str, Any]) -> str:
    keys = ("partial_p50", "partial_p95", "first_p50", "final_p95", "speech_final_p95")
    ms = [row[k] if row[k] is None else 1000 * row[k] for k in keys]
    cells = [str(row[k]) for k in ("clients", "refused", "lost", "differing")]
    cells += ["-" if x is None else f"{x:.0f}" for x in ms] + [f"{row['cores']:.2f}", f"{row['memory']:.0f}"]
    return "  ".join(cell.rjust(len(head)) for cell, head in zip(cells, HEAD, strict=True))


def _turns(row: dict[str, Any]) -> str:
    """Return a line on ends of turn."""
    ms = ", ".join(f"{head} {'-' if row[key] is None else round(1000 * row[key])}" for head, key in TURNS.items())
    early = "early an hour: eager {eager_early_per_hour:.0f}, ends {turns_early_per_hour:.0f}".format(**row)
    return f"    {ms}; met {row['turns_met']} of {row['ends']}; {early}; WER {100 * row['wer']:.1f} %"
