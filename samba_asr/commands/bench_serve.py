"""`samba-asr bench serve`: how many people a service can hear at once."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from samba_asr.errors import UserError

CLIENTS = (1, 4, 16, 32, 48, 64, 96)
HEAD = ("clients", "refused", "lost", "differing", "partial p50", "p95 ms", "first p50", "final p95 ms", "cores", "MiB")


def add_parser(kinds) -> None:
    parser = kinds.add_parser(
        "serve",
        help="the service",
        description="Start a service and speak to it in real time, with more and more clients.  partial: milliseconds from when "
        "audio was sent to when a partial result covers it; the encoder's block (--latency-ms) comes on top for the words at "
        "its beginning.  differing: texts that are not those of the recogniser alone.",
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a folder, or one in the box: digits (default), english")
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="utterances to speak (default: the digits of the recipe)")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, metavar="N", help="default: 1 4 16 32 48 64 96")
    parser.add_argument("--max-sessions", type=int, default=64, metavar="N", help="of the service (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="that each client speaks (default: 10)")
    parser.add_argument("--latency-ms", type=float, default=640.0, metavar="N", help="default: 640")
    parser.add_argument("--device", default="auto", help="auto | cpu | cuda | cuda:1 (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from samba_asr.bench.measure import hardware
    from samba_asr.bench.serve import measure
    from samba_asr.recognizer import Recognizer

    if min(args.clients) < 1 or args.seconds <= 0:
        raise UserError(f"--clients {min(args.clients)} --seconds {args.seconds:g}: both must be positive")
    recognizer = Recognizer.load(args.model, device=args.device)
    clips = _clips(args, recognizer.rate)
    texts = []
    for clip in clips:
        stream = recognizer.stream(latency_ms=args.latency_ms)
        stream.accept(clip)
        texts.append(stream.finish().text)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "samba_asr.cli", "serve", "--port", str(port), "--device", args.device]
    command += ["--max-sessions", str(args.max_sessions), *(["--model", str(args.model)] if args.model else [])]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(server, port)
        if not args.json:
            print("  ".join(HEAD))
        rows = []
        for n in args.clients:
            url = f"ws://127.0.0.1:{port}"
            rows.append(measure(url, clips, texts, n, recognizer.rate, args.latency_ms, server.pid))
            if not args.json:
                print(_line(rows[-1]), flush=True)
            time.sleep(1.0)
    finally:
        server.terminate()
        server.wait(timeout=60)
    if args.json:
        print(json.dumps({"hardware": hardware(str(recognizer.model.ctc.linear.weight.device)), "rows": rows}, indent=2))
    return 0


def _line(row: dict[str, Any]) -> str:
    ms = [row[k] if row[k] is None else 1000 * row[k] for k in ("partial_p50", "partial_p95", "first_p50", "final_p95")]
    cells = [str(row[k]) for k in ("clients", "refused", "lost", "differing")]
    cells += ["-" if x is None else f"{x:.0f}" for x in ms] + [f"{row['cores']:.2f}", f"{row['memory']:.0f}"]
    return "  ".join(cell.rjust(len(head)) for cell, head in zip(cells, HEAD, strict=True))


def _clips(args: argparse.Namespace, rate: int) -> list:
    """Stretches of speech, each of --seconds."""
    import numpy as np

    from samba_asr.data.dataset import AudioStore
    from samba_asr.data.manifest import read_manifest

    manifest = args.data or Path("egs/digits/data/manifest.jsonl")
    if not manifest.is_file():
        raise UserError(f"{manifest}: no such manifest; name one with --data")
    store, parts, length = AudioStore(rate, cache=False), [], 0
    for utterance in read_manifest(manifest):
        parts.append(store.load(utterance))
        length += len(parts[-1])
        if length > 8 * args.seconds * rate:
            break
    speech, size = np.concatenate(parts), int(args.seconds * rate)
    if len(speech) < size:
        raise UserError(f"{manifest} holds {len(speech) / rate:.0f} s of audio, less than --seconds {args.seconds:g}")
    return [speech[at : at + size] for at in range(0, len(speech) - size + 1, size)]


def _wait(server: subprocess.Popen, port: int) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise UserError("the service ended at once: see what samba-asr serve says")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise UserError("the service does not answer")
