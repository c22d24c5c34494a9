"""Training of n-gram language models from text, by VariKN.

Models are Kneser-Ney smoothed, grown and pruned to fit the text: V. Siivola, T. Hirsimaki, S. Virpioja, "On growing and
pruning Kneser-Ney smoothed n-gram models", 2007.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from samba_asr.errors import UserError, missing_extra
from samba_asr.text.lines import FAULTS, open_text
from samba_asr.text.normalize import upper

logger = logging.getLogger(__name__)


def read_lines(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the lines of text files, plain or compressed (.gz, .xz, .bz2), without line ends; empty lines are skipped."""
    for path in paths:
        try:
            with open_text(path) as file:
                for line in file:
                    if line := " ".join(line.split()):
                        yield line
        except FAULTS as error:
            raise UserError(f"{path}: cannot read the text ({error})") from None


def train_ngram(
    lines: Iterable[str],
    out: Path,
    *,
    order: int = 3,
    words: int = 100_000,
    growth: float = 0.02,
    pruning: float = 0.04,
) -> None:
    """Write an ARPA file, gzipped if `out` ends in .gz.  Tens of millions of words take minutes, and gigabytes of memory.

    order: the longest n-gram.  words: size of the vocabulary, the most frequent words; others are `<unk>`.
    growth, pruning: gain, in nats per parameter, for which a longer n-gram is added, and is kept.  Smaller values make larger
    models; pruning 0 keeps all.  UserError for a text without words.
    """
    try:
        import varikn
    except ImportError as error:
        raise missing_extra("varikn", "lm") from error
    if order < 1 or words < 1 or growth <= 0 or pruning < 0:
        raise UserError(
            f"order={order}, words={words}: give 1 or more; growth={growth}: above 0; pruning={pruning}: 0 or more"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        text, marked, arpa = (Path(folder) / name for name in ("text", "marked", "lm.arpa"))
        counts: Counter[str] = Counter()
        with text.open("w", encoding="utf-8") as file:
            for line in lines:
                counts.update(line.split())
                file.write(f"{line}\n")
        if not counts:
            raise UserError("the training text of the language model is empty")
        known = {word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:words]}
        with text.open(encoding="utf-8") as source, marked.open("w", encoding="utf-8") as file:
            for line in source:
                file.write(" ".join(["<s>", *(w if w in known else "<UNK>" for w in line.split()), "</s>\n"]))
        covered = sum(counts[word] for word in known) / counts.total()
        logger.info(
            "%d words, %d of them different; the %d most frequent cover %.1f %%; growing n-grams up to order %d",
            counts.total(),
            len(counts),
            len(known),
            100 * covered,
            order,
        )
        if strange := [word for word in counts if word != upper(word)]:
            logger.warning(
                "%d of %d words hold small letters or marks, such as %r: the shipped models write capitals alone, and never such "
                "words; --upper converts the text",
                sum(counts[word] for word in strange),
                counts.total(),
                strange[0],
            )
        with quiet():
            trainer = varikn.VarigramTrainer(True, False)  # three discounts per order: modified Kneser-Ney
            trainer.set_datacost_scale(growth)
            trainer.set_datacost_scale2(pruning)
            trainer.set_max_order(order)
            trainer.initialize(str(marked), 0, 0, 0, "", "<s>", False, "")
            trainer.grow(1)
            trainer.write_file(str(arpa), True)
        part = out.with_name(out.name + ".part")
        with arpa.open("rb") as source, (gzip.open if out.suffix == ".gz" else open)(part, "wb") as target:
            shutil.copyfileobj(source, target)
        part.replace(out)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what compiled code writes to standard output and standard error, as VariKN does for every step of its search."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(1), os.dup(2)]
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        for fd, saved in zip((1, 2), before, strict=True):
            os.dup2(saved, fd)
            os.close(saved)
