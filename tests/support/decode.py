"""`samba-asr decode` as a function."""

from __future__ import annotations

import argparse

from samba_asr.commands import decode


def run_decode(place, out, *more, model="model", data="corpus.jsonl") -> int:
    parser = argparse.ArgumentParser()
    decode.add_parser(parser.add_subparsers())
    folder = place / model if (place / model).exists() else model  # or the name of one in the box
    words = ["decode", "--model", folder, "--data", place / data, "--out", out, "--device", "cpu", *more]
    args = parser.parse_args([str(w) for w in words])
    return args.run(args)
