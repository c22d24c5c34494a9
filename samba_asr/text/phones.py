"""Text to phones and back: the third kind of tokenizer, `phone`.

Each phone has two units: one at the start of a word, marked with `▁` like a bpe piece, and one inside a word.  So ids mark
the starts of words, as with every other kind of tokenizer, and a search over words needs no special rules for phones.
(Kaldi's phones are position-dependent for another reason: they sound different.)

The tokenizer is defined by its lexicon, the file `lexicon.txt` of the model folder.  `encode` uses a word's usual
pronunciation.  `decode` gives only one possible spelling: of SEA and SEE the first in the lexicon, and for an unknown
pronunciation its phones, `S-IY-K`.  For text, use a search with a lexicon.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from samba_asr import collector
from samba_asr.errors import UserError
from samba_asr.text.lexicon import Lexicon, cmudict, for_words
from samba_asr.text.units import BLANK, SPACE, UNK, UNK_ID, UNK_SURFACE, checked


class PhoneTokenizer:
    """Tokenizer with the units `▁P` and `P` for each phone P of the lexicon, sorted by name."""

    FILE = "lexicon.txt"
    KIND = "phone"

    def __init__(self, lexicon: Lexicon | Path):
        """lexicon: or its file, which is read when a word is asked for, since that takes a second."""
        self._source = lexicon
        phones = lexicon.phones if isinstance(lexicon, Lexicon) else Lexicon.phones_in(lexicon)
        self._pieces = [BLANK, UNK, *(SPACE + phone for phone in phones), *phones]
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        self.vocab_size = len(self._pieces)

    @functools.cached_property
    def lexicon(self) -> Lexicon:
        """Words and their pronunciations."""
        if isinstance(self._source, Lexicon):
            return self._source
        with collector.paused():
            lexicon = Lexicon.read(self._source)
        if lexicon.phones != [piece for piece in self._pieces[2:] if not piece.startswith(SPACE)]:
            raise UserError(f"{self._source} has changed since the model was loaded: load it again")
        return lexicon

    @functools.cached_property
    def _spelling(self) -> dict[tuple[str, ...], str]:
        """The first word of each pronunciation."""
        found: dict[tuple[str, ...], str] = {}
        for word, some in self.lexicon.items():
            for one in some:
                found.setdefault(one, word)
        return found

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int | None = None,
        guess: Callable[[Sequence[str]], Lexicon] | None = None,
    ) -> PhoneTokenizer:
        """Build the lexicon from CMUdict and, for other words of `texts`, from `guess`; frequent words of `texts` first."""
        if vocab_size is not None:
            raise UserError(f"vocab_size {vocab_size}: the phones determine the size of a phone tokenizer: give None")
        counts = Counter(word for text in texts for word in text.split())
        if not counts:
            raise UserError("cannot make a phone tokenizer: the text is empty")
        known = cmudict()
        often = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        return cls(
            Lexicon(for_words(often, known, guess) | {word: some for word, some in known.items() if word not in counts})
        )

    def spellings(self, word: str) -> list[list[int]]:
        """Return the ids of every pronunciation of `word`, the usual one first; [] for a word that is not in the lexicon."""
        return [self.units_of(one) for one in self.lexicon.get(word, ())]

    def known(self, words: Iterable[str]) -> set[str]:
        if "lexicon" in self.__dict__ or isinstance(self._source, Lexicon):
            return {word for word in words if word in self.lexicon}
        return Lexicon.known_in(self._source, words)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the usual pronunciations; <unk> for a word that is not in the lexicon."""
        return [i for word in text.split() for i in (self.spellings(word) or [[UNK_ID]])[0]]

    def decode(self, ids: Sequence[int]) -> str:
        words: list[list[str]] = []
        for piece in self.pieces(ids):
            if piece == BLANK:
                continue
            if piece.startswith(SPACE) or piece == UNK or not words or words[-1] == [UNK]:
                words.append([])
            words[-1].append(piece.removeprefix(SPACE))
        return " ".join(self._spell(tuple(word)) for word in words)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._pieces[checked(i, self.vocab_size)] for i in ids]

    def save(self, folder: Path | str) -> Path:
        path = Path(folder) / self.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lexicon.write(path)
        return path

    @classmethod
    def load(cls, folder: Path | str) -> PhoneTokenizer:
        return cls(Path(folder) / cls.FILE)

    def units_of(self, pronunciation: Sequence[str]) -> list[int]:
        """Return the ids of a word with this pronunciation, in phones of the lexicon."""
        first, *rest = pronunciation
        return [self._ids[SPACE + first], *(self._ids[phone] for phone in rest)]

    def _spell(self, phones: tuple[str, ...]) -> str:
        return UNK_SURFACE if phones == (UNK,) else self._spelling.get(phones) or "-".join(phones)
