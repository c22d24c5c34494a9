"""`samba-asr prepare`: convert a corpus to validated manifests, `data/<set>.jsonl`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.data.prepare import PrepareOptions


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "prepare",
        help="convert a corpus to validated manifests",
        description="Read a corpus, check all of it, and write data/<set>.jsonl and Kaldi's data/<set>/.  A path may be a folder "
        "of a.wav with a.txt, a LibriSpeech tree, a Kaldi data folder, a JSONL manifest (ours or NeMo's), a CSV or TSV of path "
        "and text, LJSpeech's folder, tar or Parquet shards, or recordings named {digit}_{speaker}_{n}.",
    )
    parser.add_argument("corpus", help="recipe (digits, fsdd, mini_librispeech, librispeech), or path of a corpus")
    parser.add_argument("--out", type=Path, default=Path("data"), metavar="DIR", help="output folder (default: data)")
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder of the recipe's corpus (default: download)")
    parser.add_argument(
        "--format",
        default="auto",
        help="format of a path: pairs, jsonl, table, ljspeech, kaldi, librispeech, fsdd, shards",
    )
    parser.add_argument("--subset", nargs="+", metavar="NAME", help="librispeech: parts to use")
    parser.add_argument("--split-by-speaker", metavar="dev=0.1,test=0.1", help="for a path: hold out whole speakers")
    parser.add_argument("--fix", action="store_true", help="drop utterances with problems (see dropped.tsv)")
    parser.add_argument("--decode", action="store_true", help="check all samples, not only the headers")
    parser.add_argument("--shortest", type=float, default=0.1, metavar="S", help="least seconds (default: 0.1)")
    parser.add_argument("--longest", type=float, default=40.0, metavar="S", help="most seconds (default: 40)")
    parser.add_argument("--no-text", action="store_true", help="accept utterances without a transcript")
    parser.add_argument(
        "--upper",
        action="store_true",
        help="write texts in the style of LibriSpeech: capitals, no punctuation, numbers as words",
    )
    parser.add_argument("--no-kaldi", action="store_true", help="write only the manifests")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: number of processors)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print the report.  UserError for anything that the user can fix."""
    from samba_asr import recipes
    from samba_asr.data import prepare

    options = prepare.PrepareOptions(
        fix=args.fix,
        decode=args.decode,
        shortest=args.shortest,
        longest=args.longest,
        texts=not args.no_text,
        upper=args.upper,
        kaldi=not args.no_kaldi,
        workers=args.workers,
        progress=lambda done, total: _show(f"headers {done} of {total}"),
        downloading=lambda download: _show(download.line()),
    )
    report = args.out / "report.txt"
    report.unlink(missing_ok=True)
    try:
        if args.corpus in recipes.RECIPES:
            manifests = _run_recipe(args, options)
        elif Path(args.corpus).exists():
            manifests = _run_path(args, options)
        else:
            raise UserError(f"{args.corpus!r} is neither a recipe ({', '.join(recipes.RECIPES)}) nor an existing path")
    finally:
        _show("")
        if report.exists():
            print(report.read_text(encoding="utf-8"), end="")
    for path in manifests.values():
        print(path)
    return 0


def _show(line: str) -> None:
    """Overwrite the current line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _run_recipe(args: argparse.Namespace, options: PrepareOptions) -> dict[str, Path]:
    from samba_asr import recipes

    for option, name in ((args.split_by_speaker, "--split-by-speaker"), (args.format != "auto", "--format")):
        if option:
            raise UserError(f"{name} is only for a corpus given by its path: the recipe {args.corpus} has its own")
    if args.subset and args.corpus != "librispeech":
        raise UserError(f"--subset is only for the recipe librispeech: {args.corpus} has no parts to choose")
    more = {"subsets": tuple(args.subset)} if args.subset else {}
    return recipes.load(args.corpus).prepare(args.source, args.out, options, **more)


def _run_path(args: argparse.Namespace, options: PrepareOptions) -> dict[str, Path]:
    from samba_asr.data import prepare, readers

    for option, name in ((args.source, "--source"), (args.subset, "--subset")):
        if option:
            raise UserError(f"{name} is only for recipes: {args.corpus} is the corpus itself")
    utterances = readers.read_corpus(args.corpus, format=args.format)
    if args.split_by_speaker:
        splits = prepare.split_by_speaker(utterances, _shares(args.split_by_speaker))
    else:
        splits = prepare.by_split(utterances)
    return prepare.write_splits(splits, args.out, options)


def _shares(text: str) -> dict[str, float]:
    """Parse dev=0.1,test=0.1 to {"dev": 0.1, "test": 0.1}."""
    try:
        return {name.strip(): float(share) for name, share in (item.split("=") for item in text.split(","))}
    except ValueError:
        raise UserError(f"--split-by-speaker {text!r}: write name=share,name=share, such as dev=0.1,test=0.1") from None
