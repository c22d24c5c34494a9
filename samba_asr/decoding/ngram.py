"""N-gram language models of words: ARPA and packed files (`samba_asr.decoding.packed`) by numpy, KenLM's binary files by `kenlm`.

All score batches of contexts and words, and give the same scores, by test.  A context is a short tuple of word ids: the last
words, as many as the model distinguishes.  So it is hashable and small, and keeps no other object alive.

    n  queries of a batch     m  order of an n-gram, 1 .. order
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from samba_asr.decoding import packed
from samba_asr.decoding.packed import Grams
from samba_asr.errors import UserError, missing_extra

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
LN10 = math.log(10.0)
FLOOR = -99.0 * LN10  # an ARPA file's -99, or -inf: impossible
_ROUNDING = 1e-5  # rounding tolerance: the logarithm of 1 may be so much above 0

Context = tuple[int, ...]


class LanguageModel(Protocol):
    """Language model of words, scored in batches."""

    ids: dict[str, int]  # words to ids, `</s>` among them

    @property
    def start(self) -> Context:
        """The context of a text's first word."""
        ...

    def score(self, contexts: Sequence[Context], words: Sequence[int]) -> tuple[np.ndarray, list[Context]]:
        """Return ln p(word | context), (n,) float64, and the context after each word."""
        ...


def read_ngram(path: Path | str) -> NgramModel | KenLmModel:
    """Read a model file; its content shows the format: ARPA (plain or gzipped), packed, or KenLM's binary.

    UserError for anything else.
    """
    path = Path(path)
    if is_kenlm(path):
        return KenLmModel(path)
    if packed.is_packed(_head(path)):
        return NgramModel(*packed.read(path))
    return NgramModel(*read_arpa(path))


def is_kenlm(path: Path) -> bool:
    """Return whether a model file is KenLM's binary; UserError if it cannot be read."""
    return _head(path).startswith(b"mmap lm http://kheafield.com/code")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot read the language model ({error.strerror})") from None


class Table(NamedTuple):
    """The n-grams of one order, sorted by the hash of their words."""

    keys: np.ndarray  # uint64
    log_prob: np.ndarray  # float32, natural logarithm
    backoff: np.ndarray  # float32, natural logarithm; 0 where the file has none


class NgramModel:
    """Back-off model in memory, 16 bytes an n-gram (S. Katz, 1987).

    Pruning may have removed a context with which longer n-grams still begin.  Such a context is restored, with the probability
    that the model gives it by back-off.  So a carried context is always as long as the model can use.
    """

    def __init__(self, words: Sequence[str], grams: Sequence[Grams]):
        """words: by id.  grams: of orders 1, 2, ..., over these ids; higher orders may be empty."""
        self.ids = {word: i for i, word in enumerate(words)}
        self.tables, self.order = tuple(_hashed(some) for some in grams), len(grams)
        for m in range(self.order - 1, 1, -1):  # from above, as a restored n-gram has a context too
            grams = self._with_contexts(grams, m)
        self.grams = tuple(grams)

    def _with_contexts(self, grams: Sequence[Grams], m: int) -> Sequence[Grams]:
        """Add the n-grams of order m with which those of order m + 1 begin, to `grams` and `tables`."""
        begin, there = grams[m].words[:, :m], self.tables[m - 1].keys
        new = np.ones(len(begin), dtype=bool)
        new[1:] = (begin[1:] != begin[:-1]).any(axis=1)  # files are nearly sorted, so few repeats remain
        begin = begin[new]
        keys = _keys(begin)
        place = np.searchsorted(there, keys)
        place[place == len(there)] = 0
        lost = np.unique(begin[there[place] != keys] if len(there) else begin, axis=0)
        if not len(lost):
            return grams
        log_prob, _ = self.score([tuple(row[:-1]) for row in lost.tolist()], lost[:, -1].tolist())
        some = grams[m - 1]
        more = Grams(
            np.concatenate([some.words, lost]),
            np.concatenate([some.log_prob, log_prob.astype(np.float32)]),
            np.concatenate([some.backoff, np.zeros(len(lost), np.float32)]),
        )
        self.tables = (*self.tables[: m - 1], _hashed(more), *self.tables[m:])
        return [*grams[: m - 1], more, *grams[m:]]

    @property
    def start(self) -> Context:
        return (self.ids[BEGIN],) if BEGIN in self.ids and self.order > 1 else ()

    def score(self, contexts: Sequence[Context], words: Sequence[int]) -> tuple[np.ndarray, list[Context]]:
        known = self.order - 1
        n = len(words)
        # Newest first, so that column m - 1 is the word that makes an n-gram of order m.
        history = np.full((n, self.order), -1, dtype=np.int64)
        history[:, 0] = words
        for row, context in enumerate(contexts):
            some = context[::-1][:known]
            history[row, 1 : 1 + len(some)] = some
        whole = (
            np.array([min(len(context), known) for context in contexts], dtype=np.int64) + 1
        )  # highest order to look up
        total, found = self._score(history, whole)
        keep = np.minimum(found, known)
        return total, [tuple(history[row, : keep[row]][::-1].tolist()) for row in range(n)]

    def log_prob(self, ngrams: np.ndarray) -> np.ndarray:
        """Return ln p(last word | words before it), (n,) float64, of n-grams (n, m) of ids; -1: a word that is not known."""
        newest = ngrams[:, ::-1][:, : self.order].astype(np.int64)
        history = np.pad(newest, ((0, 0), (0, self.order - newest.shape[1])), constant_values=-1)
        return self._score(history, np.full(len(history), newest.shape[1]))[0]

    def _score(self, history: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ln p(first column | the others), and the highest order of these words that the model has."""
        total = np.full(len(history), FLOOR)
        found = np.zeros(len(history), dtype=np.int64)
        for m, (place, hit) in enumerate(self._look_up(history), 1):
            hit &= m <= whole
            total[hit] = self.tables[m - 1].log_prob[place[hit]]
            found[hit] = m
        # Back-off weights of longer contexts that are known, but not followed by this word.
        for m, (place, hit) in enumerate(self._look_up(history[:, 1:]), 1):
            paid = hit & (m >= found) & (m < whole)
            total[paid] += self.tables[m - 1].backoff[place[paid]]
        return total, found

    def _look_up(self, history: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield for each order the places of the n-grams that end with the first column of `history`, and whether they exist."""
        keys = np.zeros(len(history), dtype=np.uint64)
        for column, table in zip(history.T, self.tables, strict=False):
            keys = mix(keys, column)
            if not len(table.keys):
                yield np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
                continue
            place = np.searchsorted(table.keys, keys)
            place[place == len(table.keys)] = 0
            yield place, (table.keys[place] == keys) & (column >= 0)


def mix(keys: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Hash an n-gram from the hash of its later words and the ids before them.  64 bits make collisions negligible."""
    mixed = (keys ^ (ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(29))


class KenLmModel:
    """Model in KenLM's binary format, read by the package `kenlm`, whose installation needs a C++ compiler.

    Such a file does not list its words, so `ids` holds only words that were looked up: see `know`.
    """

    def __init__(self, path: Path):
        try:
            import kenlm
        except ImportError as error:
            raise missing_extra("kenlm", "kenlm") from error
        try:
            self._model = kenlm.Model(str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{path}: not a KenLM file that this kenlm reads ({' '.join(str(error).split())[:200]})"
            ) from None
        self._state = kenlm.State
        self.ids: dict[str, int] = {}
        self._words: list[str] = []
        self.know((END,))

    def know(self, words: Sequence[str]) -> None:
        """Assign ids to those of `words` that the model has."""
        for word in words:
            if word not in self.ids and word in self._model:
                self.ids[word] = len(self._words)
                self._words.append(word)

    @property
    def start(self) -> Context:
        return (-1,)

    def score(self, contexts: Sequence[Context], words: Sequence[int]) -> tuple[np.ndarray, list[Context]]:
        total, after = np.empty(len(words)), []
        for n, (context, word) in enumerate(zip(contexts, words, strict=True)):
            here, there = self._state(), self._state()
            at_start = context[:1] == (-1,)
            self._model.BeginSentenceWrite(here) if at_start else self._model.NullContextWrite(here)
            for i in context[at_start:]:
                self._model.BaseScore(here, self._words[i], there)
                here, there = there, here
            total[n] = self._model.BaseScore(here, self._words[word], there) * LN10
            after.append((*context, word)[-(self._model.order - 1) :] if self._model.order > 1 else ())
        return total, after


def read_arpa(path: Path) -> tuple[list[str], list[Grams]]:
    """Read the words, by id, and the n-grams, by order, of an ARPA file: SRILM's format, `ngram-format(5)`.

    UserError, with the line, for any other content.
    """
    try:
        with path.open("rb") as file:
            opener = gzip.open if file.read(2) == b"\x1f\x8b" else open
        with opener(path, "rt", encoding="utf-8-sig") as file:
            return _parse(file, path)
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"{path}: not readable as an ARPA file ({error})") from None


def _parse(lines: Iterator[str], path: Path) -> tuple[list[str], list[Grams]]:
    at = 0

    def wrong(why: str, line: int) -> UserError:
        return UserError(f"{path}, line {line}: not an ARPA file: {why}")

    counts: list[int] = []
    ids: dict[str, int] = {}
    grams: list[str] = []  # the lines of one order
    numbers: list[int] = []  # their line numbers
    order, tables = 0, []

    def close() -> None:
        """Parse the collected lines of an order, and add the empty orders of the header that have no section."""
        nonlocal order
        if order:
            try:
                table = _columns([gram.split() for gram in grams], order, ids)
            except (ValueError, IndexError, KeyError):
                n, why = _first_wrong(grams, order, ids)
                raise wrong(why, numbers[n]) from None
            if len(grams) != counts[order - 1]:
                raise wrong(f"{len(grams)} {order}-grams where the head has {counts[order - 1]}", at)
            tables.append(table)
            grams.clear()
            numbers.clear()
        while order and order < len(counts) and not counts[order] and line != f"\\{order + 1}-grams:":
            order += 1
            tables.append(_columns([], order, ids))

    for at, line in enumerate(lines, 1):
        line = line.strip()
        if not line:
            continue
        if order and line[0] != "\\":
            grams.append(line)
            numbers.append(at)
        elif line.startswith("ngram ") and not order:
            try:
                m, count = (int(part) for part in line.removeprefix("ngram ").split("="))
            except ValueError:
                raise wrong(f"{line!r}", at) from None
            if m != len(counts) + 1 or count < 0:
                raise wrong(f"{line!r} where ngram {len(counts) + 1}=COUNT should be", at)
            counts.append(count)
        elif line[0] == "\\":
            close()
            if line == "\\end\\":
                break
            if line != "\\data\\":
                if line != f"\\{order + 1}-grams:" or order == len(counts):
                    raise wrong(f"{line!r} where \\{order + 1}-grams: should be", at)
                order += 1
        elif order == 0 and counts:
            raise wrong(f"{line!r}", at)
    else:
        raise wrong("it has no \\end\\, or not even a \\data\\", at)
    if len(tables) != len(counts) or not tables:
        raise wrong("it ends early", at)
    if END not in ids:
        raise wrong(f"{END} is not among the 1-grams: every text has an end", at)
    words = list(ids)
    for name in ("<UNK>", "<unknown>"):
        if name in ids and UNKNOWN not in ids:
            words[ids[name]] = UNKNOWN
    return words, tables


def _columns(parts: list[list[str]], order: int, ids: dict[str, int]) -> Grams:
    """Convert split lines (logarithm, words, optional back-off) to arrays, and add the 1-grams' words to `ids`.

    It works column by column, because a model has millions of lines.  ValueError, IndexError or KeyError if a line is wrong.
    """
    if order == 1:
        ids.update(zip(dict.fromkeys(part[1] for part in parts), range(len(parts)), strict=False))
        if len(ids) < len(parts):
            raise ValueError("a word twice")
    if any(len(part) > order + 2 for part in parts):
        raise ValueError("too long")
    log_prob = np.array([part[0] for part in parts], dtype=np.float64)
    backoff = np.array([part[order + 1] if len(part) == order + 2 else 0.0 for part in parts], dtype=np.float64)
    if not ((log_prob <= _ROUNDING).all() and (backoff < np.inf).all()):  # NaN fails both
        raise ValueError("no probability")
    words = np.empty((len(parts), order), dtype=np.int32)
    for column in range(order):
        words[:, column] = [ids[part[1 + column]] for part in parts]
    if order > 1 and len(np.unique(_keys(words))) < len(words):
        raise ValueError("an n-gram twice")
    log_prob, backoff = np.clip(log_prob * LN10, FLOOR, 0.0), np.maximum(backoff * LN10, FLOOR)
    return Grams(words, log_prob.astype(np.float32), backoff.astype(np.float32))


def _keys(words: np.ndarray) -> np.ndarray:
    """Hash the rows of (n, order) to (n,) uint64."""
    keys = np.zeros(len(words), dtype=np.uint64)
    for column in words.T[::-1]:
        keys = mix(keys, column)
    return keys


def _hashed(grams: Grams) -> Table:
    keys = _keys(grams.words)
    sort = np.argsort(keys)
    return Table(keys[sort], grams.log_prob[sort], grams.backoff[sort])


def _first_wrong(grams: list[str], order: int, ids: dict[str, int]) -> tuple[int, str]:
    """Find the first line that is not an n-gram; return its index and the reason."""
    seen = set()
    for n, line in enumerate(grams):
        part = line.split()
        words = tuple(part[1 : 1 + order])
        try:
            log_prob = float(part[0])
            backoff = float(part[1 + order] if len(part) > 1 + order else 0.0)
        except (ValueError, IndexError) as error:
            return n, str(error)
        if not log_prob <= _ROUNDING:
            return n, f"{part[0]!r} is no logarithm of a probability: those are 0 or less"
        if not backoff < math.inf:
            return n, f"the back-off {part[1 + order]!r} is no finite number"
        if len(words) != order:
            return n, f"{len(words)} words where a {order}-gram should be"
        if len(part) > order + 2:
            return n, f"{part[order + 2]!r} after a {order}-gram and its back-off"
        if words in seen:
            return n, f"{' '.join(words)!r} comes twice"
        seen.add(words)
        if unknown := [word for word in words if order > 1 and word not in ids]:
            return n, f"{unknown[0]!r} is not among the 1-grams"
    raise AssertionError("all lines are n-grams")
