"""`samba-asr push`: upload a model folder to the Hugging Face hub."""

from __future__ import annotations

import argparse


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "push",
        help="upload a model to the Hugging Face hub",
        description="Upload a model folder to the Hugging Face hub, with a card that the hub understands.  Recognizer.load and "
        "--model then take hf:ORG/NAME.  Log in with `hf auth login`, or set HF_TOKEN.",
    )
    parser.add_argument("model", metavar="MODEL", help="model folder, or the name of a shipped model")
    parser.add_argument(
        "to", metavar="ORG/NAME", help="repository, made if there is none; @BRANCH after it chooses a branch"
    )
    parser.add_argument(
        "--license", default="", metavar="ID", help="license of the weights, such as cc-by-4.0, for the card"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    from samba_asr.hub import push

    print(push(args.model, args.to, args.license, args.private))
    return 0
