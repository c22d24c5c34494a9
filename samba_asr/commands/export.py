"""`samba-asr export`: write a model as graphs, which run faster on a CPU, and without torch."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from samba_asr.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "export",
        help="write a model as graphs for onnxruntime",
        description="Write the encoder and the head of a model as ONNX graphs.  In the cache, the default, "
        "decode.runtime.backend=auto finds them and recognition on a CPU uses them.  A folder of your own (--out) gets all that "
        "recognition needs, and is a model that runs without torch.",
    )
    parser.add_argument("--model", metavar="FOLDER", help="model folder, or name of a shipped model (default: english)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: the user's cache)")
    parser.add_argument("--format", default="onnx", choices=("onnx",), help="kind of graphs (default: onnx)")
    parser.add_argument("--int8", action="store_true", help="8-bit weights: smaller, and other texts; needs --out")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the graphs, and print where they are."""
    from samba_asr.hub import model_folder
    from samba_asr.models.folder import load_model
    from samba_asr.runtime.choose import cached_graphs, weights_digest
    from samba_asr.runtime.export import complete, export

    if args.int8 and args.out is None:
        raise UserError("--int8 needs --out DIR: its texts differ, so it is never chosen by itself")
    folder = model_folder(args.model)
    loaded = load_model(folder)
    digest = weights_digest(folder)
    assert digest is not None  # the model was loaded from the folder
    out = args.out or cached_graphs(digest)
    began = time.monotonic()
    about = export(loaded.model, digest, out, int8=args.int8)
    if args.out is not None:
        complete(loaded, out)
    size = sum((out / name).stat().st_size for name in about.files) / 1e6
    print(f"wrote {len(about.files)} files, {size:.1f} MB, to {out} in {time.monotonic() - began:.1f} s")
    if args.out is None:
        print("decode.runtime.backend=auto uses them now")
    else:
        print(f"samba-asr transcribe --model {out} FILE runs them; it needs no torch")
    return 0
