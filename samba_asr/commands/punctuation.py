"""`samba-asr punctuation`: train the network of punctuation and case, and measure it."""

from __future__ import annotations

import argparse
from pathlib import Path

from samba_asr import config as configs
from samba_asr.commands.search_options import add_settings

SEGMENTS = (8, 24)  # words of a segment of speech, shortest and longest
DEFAULTS = (
    "train.epochs=1000",
    "train.ema=0.998",
    "train.keep_best=1",
    "optim.lr=0.003",
    "optim.warmup=200",
    "optim.weight_decay=0.02",
)


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "punctuation",
        help="train the network of punctuation and case",
        description="Train the network that writes punctuation and case.",
    )
    kinds = parser.add_subparsers(dest="punctuation", metavar="WHAT", required=True)
    add_split(kinds)
    add_train(kinds)
    add_score(kinds)
    return parser


def add_split(kinds) -> None:
    parser = kinds.add_parser(
        "split",
        help="cut a text of many books into training, validation and test books",
        description="Write train.txt, valid.txt and test.txt: one book in 20 is held out, whole.",
    )
    parser.add_argument("text", type=Path, metavar="FILE", help="text with case and marks, a paragraph a line")
    parser.add_argument("table", type=Path, metavar="TSV", help="the books in their order; last column: characters")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.set_defaults(run=run_split)


def run_split(args: argparse.Namespace) -> int:
    from samba_asr.text.lines import read_lines
    from samba_asr.text.written.books import split

    paragraphs = [line for line in read_lines(args.text, "text") if line]
    sets = split(paragraphs, read_lines(args.table, "table of books"))
    args.out.mkdir(parents=True, exist_ok=True)
    for name, lines in sets.items():
        path = args.out / f"{name}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{path}: {len(lines)} paragraphs")
    return 0


def add_train(kinds) -> None:
    parser = kinds.add_parser(
        "train",
        help="train from text as printed",
        description="Train in --exp, or continue the run that is there, and write the network to --out.  The main settings "
        "are punctuation.*, optim.* and train.max_minutes.",
    )
    parser.add_argument(
        "text",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="text with case and marks, a paragraph a line; plain or .gz, .xz, .bz2",
    )
    parser.add_argument("--valid", type=Path, required=True, metavar="FILE", help="text to validate on, of other books")
    parser.add_argument("--exp", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as punctuation.safetensors")
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="begin with this network, its sizes and its words, instead of a new one",
    )
    add_settings(parser, "settings")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Train; return 0, or 130 or 143 if SIGINT or SIGTERM ended training early, after saving."""
    from samba_asr.models.punctuator import load_punctuator
    from samba_asr.text.lm import read_lines
    from samba_asr.training.punctuation import PunctuationTask, finish, sizes_of
    from samba_asr.training.trainer import run

    config = configs.load(overrides=[*DEFAULTS, *args.overrides])
    init = load_punctuator(args.init) if args.init else None
    if init is not None:
        config = sizes_of(config, init)
    task = PunctuationTask(config, read_lines(args.text), read_lines([args.valid]), init)
    result = run(config, args.exp, None, lambda config: task)
    if result.signal:
        return 128 + result.signal
    print(finish(config, task, args.exp, args.out))
    return 0


def add_score(kinds) -> None:
    parser = kinds.add_parser(
        "score",
        help="F1 of marks and case accuracy, on texts or on speech",
        description="Measure on texts as printed, in segments of random lengths without times; or, with --data, on recognized "
        "speech whose transcripts are printed text, in the order in which it was spoken.",
    )
    parser.add_argument("text", nargs="*", type=Path, metavar="FILE", help="texts of books that were held out")
    parser.add_argument(
        "--data", type=Path, metavar="CORPUS", help="speech: a manifest, LJSpeech's folder or another corpus"
    )
    parser.add_argument("--punctuator", type=Path, metavar="FILE", help="network (default: the shipped one)")
    parser.add_argument("--model", metavar="DIR", help="recognizer for --data (default: english)")
    parser.add_argument("--paragraphs", type=int, default=60, metavar="N", help="of a text that the bootstrap draws")
    parser.add_argument("--limit", type=int, metavar="N", help="first N texts, or recordings, alone")
    parser.set_defaults(run=run_score)


def run_score(args: argparse.Namespace) -> int:
    from samba_asr.decoding.written import Writer
    from samba_asr.errors import UserError
    from samba_asr.evaluation.written import score_speech, score_texts
    from samba_asr.models.punctuator_numpy import load
    from samba_asr.text.lm import read_lines

    if bool(args.text) == bool(args.data):
        raise UserError("give texts, or speech by --data")
    if args.paragraphs < 1 or (args.limit is not None and args.limit < 1):
        raise UserError(f"--paragraphs {args.paragraphs}, --limit {args.limit}: give 1 or more")
    net = load(args.punctuator)

    def writer(ahead: int) -> Writer:
        return Writer(net, digits=False, ahead=ahead)

    if args.text:
        lines, n = list(read_lines(args.text)), args.paragraphs
        texts = [lines[i : i + n] for i in range(0, len(lines), n)][: args.limit]
        for line in score_texts(writer, texts, SEGMENTS):
            print(line, flush=True)
        return 0
    from samba_asr.commands.search_options import load_recognizer
    from samba_asr.data.readers import read_corpus

    recognizer, clips = load_recognizer(args.model, "auto"), []
    for utterance in list(read_corpus(args.data))[: args.limit]:
        result = recognizer.transcribe(utterance.audio)
        clips.append((utterance.text, result.segments, result.duration))
    for line in score_speech(writer, clips):
        print(line, flush=True)
    return 0
