"""`samba-asr lm train`, `pack` and `lexicon`: n-grams, and the pronunciations of their words."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)


def add_train(kinds) -> None:
    parser = kinds.add_parser(
        "train",
        help="train an n-gram from text",
        description="Train an n-gram model (Kneser-Ney, pruned) from text with one sentence a line.",
    )
    parser.add_argument("text", nargs="+", type=Path, metavar="FILE", help="text, plain or .gz, .xz, .bz2")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="packed if the name ends in .ngram, else ARPA, gzipped if it ends in .gz",
    )
    parser.add_argument(
        "--upper",
        action="store_true",
        help="convert the text to LibriSpeech's spelling, which the shipped models write: capitals, no marks, numbers in words",
    )
    parser.add_argument("--order", type=int, default=3, metavar="N", help="longest n-gram (default: %(default)s)")
    parser.add_argument(
        "--words", type=int, default=100_000, metavar="N", help="keep the N most frequent words (default: %(default)s)"
    )
    parser.add_argument(
        "--growth",
        type=float,
        default=0.02,
        metavar="X",
        help="a smaller value adds more n-grams (default: %(default)s)",
    )
    parser.add_argument(
        "--pruning",
        type=float,
        default=0.04,
        metavar="X",
        help="a smaller value keeps more n-grams (default: %(default)s)",
    )
    parser.set_defaults(run=run_train)


def add_pack(kinds) -> None:
    parser = kinds.add_parser(
        "pack",
        help="pack an n-gram into a third of the bytes",
        description="Convert an ARPA file to a packed file: a third of the size of a gzipped one, loaded in a tenth of the time, "
        "usable wherever an ARPA file is.  Logarithms are exact to 1/32 nat.",
    )
    parser.add_argument("lm", type=Path, metavar="ARPA", help="plain or .gz")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as lm.ngram")
    parser.set_defaults(run=run_pack)


def add_lexicon(kinds) -> None:
    parser = kinds.add_parser(
        "lexicon",
        help="write the pronunciations of a language model's words",
        description="Write a lexicon.txt for decode.lm.lexicon of a phone model, which adds words to its own: from CMUdict, "
        "and predicted for other words.",
    )
    parser.add_argument("lm", type=Path, metavar="LM", help="ARPA file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="Kaldi's lexicon.txt")
    parser.add_argument(
        "--known", type=Path, metavar="MODEL", help="leave out the words that this model's own lexicon has (english)"
    )
    parser.set_defaults(run=run_lexicon)


def run_train(args: argparse.Namespace) -> int:
    from samba_asr.decoding import packed
    from samba_asr.decoding.ngram import read_arpa
    from samba_asr.text.lm import read_lines, train_ngram
    from samba_asr.text.normalize import upper
    from samba_asr.text.numbers import spoken

    lines = read_lines(args.text)
    if args.upper:
        lines = (found for line in lines if (found := upper(spoken(line))))
    sizes = {"order": args.order, "words": args.words, "growth": args.growth, "pruning": args.pruning}
    if args.out.suffix == ".ngram":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=args.out.parent
        ) as folder:  # hundreds of MB, so not in /tmp, which may be memory
            train_ngram(lines, Path(folder) / "lm.arpa", **sizes)
            packed.write(args.out, *read_arpa(Path(folder) / "lm.arpa"))
    else:
        train_ngram(lines, args.out, **sizes)
    logger.info("%s: %.1f MB", args.out, args.out.stat().st_size / 1e6)
    return 0


def run_pack(args: argparse.Namespace) -> int:
    from samba_asr.decoding import packed
    from samba_asr.decoding.ngram import read_arpa

    packed.write(args.out, *read_arpa(args.lm))
    before, after = (path.stat().st_size / 1e6 for path in (args.lm, args.out))
    logger.info("%s: %.1f MB, %.1f before", args.out, after, before)
    return 0


def run_lexicon(args: argparse.Namespace) -> int:
    from samba_asr.decoding.ngram import BEGIN, END, UNKNOWN, read_ngram
    from samba_asr.errors import UserError
    from samba_asr.hub import model_folder
    from samba_asr.models.pronouncer import load_pronouncer
    from samba_asr.text.lexicon import cmudict, for_words
    from samba_asr.text.phones import PhoneTokenizer
    from samba_asr.text.tokenizer import load_tokenizer

    words = [word for word in read_ngram(args.lm).ids if word not in (BEGIN, END, UNKNOWN)]
    if args.known:
        tokenizer = load_tokenizer(model_folder(args.known))
        if not isinstance(tokenizer, PhoneTokenizer):
            raise UserError(
                f"--known {args.known}: its units are {tokenizer.KIND}, so it has no lexicon and needs none"
            )
        words = [word for word in words if word not in tokenizer.lexicon]
        if not words:
            logger.info("%s has all words of %s: it needs no other lexicon, and none is written", args.known, args.lm)
            return 0
        logger.info("%d words that %s does not have, such as %s", len(words), args.known, ", ".join(words[:3]))
    for_words(words, cmudict(), load_pronouncer().pronounce).write(args.out)
    return 0
