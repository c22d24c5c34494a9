"""Tokenizers: text to token ids and back (`samba_asr.text.units` defines the ids).

There are three kinds: `bpe` (sentencepiece, file `tokenizer.model`, needs the package), `char` (plain Python, file
`tokenizer.json`) and `phone` (`samba_asr.text.phones`, file `lexicon.txt`).  None changes case, punctuation or Unicode form:
choose a normalizer (`samba_asr.text.normalize`) before training.  All collapse runs of white space to one space and strip the
ends, in `encode` and in `decode`.

With `bpe` and `char`, the text of a prefix of the ids is a prefix of the text of all ids.  If the prefix ends inside a word,
its last word is incomplete.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from samba_asr.errors import UserError, missing_extra
from samba_asr.text.lexicon import Lexicon
from samba_asr.text.phones import PhoneTokenizer
from samba_asr.text.units import BLANK, BLANK_ID, SPACE, UNK, UNK_ID, Tokenizer, checked, clean, is_word, surface, write


class CharTokenizer:
    """Tokenizer with one unit per character, the space written as `▁`.  units: those of ids 2, 3, ..."""

    FILE = "tokenizer.json"
    KIND = "char"

    def __init__(self, units: Sequence[str]):
        bad = [unit for unit in units if len(unit) != 1 or unit.isspace()]
        if bad or len(set(units)) != len(units):
            raise UserError(f"character units must be single, distinct and not white space, got {bad or list(units)}")
        self._pieces = [BLANK, UNK, *units]
        self._ids = {unit: i for i, unit in enumerate(self._pieces)}
        self.vocab_size = len(self._pieces)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None = None) -> CharTokenizer:
        """Make units of the space and the characters of `texts`, sorted by code point.

        vocab_size: ids at most, without the rarest characters; None: no limit.
        """
        counts = Counter("".join(clean(text) for text in texts))
        counts.pop(" ", None)
        if not counts:
            raise UserError("cannot train a character tokenizer: the text is empty")
        if vocab_size is not None and vocab_size < 4:
            raise UserError(
                f"vocab_size {vocab_size} leaves no characters besides blank, <unk> and space: give 4 or more"
            )
        kept = sorted(counts, key=lambda c: (-counts[c], c))[: None if vocab_size is None else vocab_size - 3]
        return cls([SPACE, *sorted(kept)])

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(c, UNK_ID) for c in clean(text).replace(" ", SPACE)]

    def spellings(self, word: str) -> list[list[int]]:
        ids = [self._ids.get(c, UNK_ID) for c in SPACE + word]
        return [ids] if is_word(word) and UNK_ID not in ids else []

    def known(self, words: Iterable[str]) -> set[str]:
        return {word for word in words if self.spellings(word)}

    def decode(self, ids: Sequence[int]) -> str:
        return surface(self.pieces(ids))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._pieces[checked(i, self.vocab_size)] for i in ids]

    def save(self, folder: Path | str) -> Path:
        content = json.dumps({"type": "char", "units": self._pieces[2:]}, ensure_ascii=False, indent=0)
        return write(folder, self.FILE, content.encode())

    @classmethod
    def load(cls, folder: Path | str) -> CharTokenizer:
        path = Path(folder) / cls.FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            kind, units = content["type"], content["units"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a character tokenizer ({error!r})") from error
        if not (isinstance(units, list) and all(isinstance(unit, str) for unit in units)):
            raise UserError(f"{path}: not a character tokenizer (its units are not a list of characters)")
        if kind != "char":
            raise UserError(f"{path}: a tokenizer of type {kind!r}: this version of samba_asr reads 'char'")
        return cls(units)


class BpeTokenizer:
    """Tokenizer with byte-pair units of a sentencepiece model, with ids 0 and 1 as in `units.py`.

    model: content of its file.  Objects can be pickled (data loader workers).  R. Sennrich et al., 2016, arXiv:1508.07909.
    """

    FILE = "tokenizer.model"
    KIND = "bpe"

    def __init__(self, model: bytes):
        self._spm = _sentencepiece().SentencePieceProcessor(model_proto=model)
        self._model = model
        self.vocab_size: int = self._spm.get_piece_size()
        first = [self._spm.id_to_piece(i) for i in range(min(2, self.vocab_size))]
        if first != [BLANK, UNK]:
            raise UserError(
                f"this sentencepiece model has ids 0 and 1 = {first}, they must be {BLANK!r} and {UNK!r}: "
                f"train it with samba_asr.text.tokenizer.train_tokenizer"
            )

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
        """Train on `texts`; UserError if they are empty, or too few for `vocab_size` (the message gives the limit).

        Every character of the texts becomes a unit, so none of them is <unk>.  Training is deterministic.
        """
        lines = [line for line in map(clean, texts) if line]
        if not lines:
            raise UserError("cannot train a bpe tokenizer: the text is empty")
        characters = len(set("".join(lines)) | {" "})
        if vocab_size < characters + 2:
            raise UserError(
                f"vocab_size {vocab_size} is too small: the text has {characters} characters, "
                f"which with blank and <unk> take {characters + 2} ids"
            )
        model = io.BytesIO()
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                character_coverage=1.0,
                normalization_rule_name="identity",  # the user normalizes texts explicitly (text.normalize)
                max_sentence_length=10**6,  # bytes; the default silently drops longer lines
                pad_id=BLANK_ID,
                pad_piece=BLANK,
                unk_id=UNK_ID,
                unk_piece=UNK,
                bos_id=-1,
                eos_id=-1,
                minloglevel=2,
            )
        except RuntimeError as error:
            limit = re.search(r"value <= (\d+)", str(error))
            if limit is None:
                raise
            raise UserError(
                f"vocab_size {vocab_size} is more than the text supports: at most {limit[1]}, or use kind 'char'"
            ) from error
        return cls(model.getvalue())

    def encode(self, text: str) -> list[int]:
        return self._spm.encode(clean(text))

    def spellings(self, word: str) -> list[list[int]]:
        ids = self.encode(word) if is_word(word) else []
        return [ids] if ids and UNK_ID not in ids else []

    def known(self, words: Iterable[str]) -> set[str]:
        return {word for word in words if self.spellings(word)}

    def decode(self, ids: Sequence[int]) -> str:
        return surface(self.pieces(ids))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._spm.id_to_piece(checked(i, self.vocab_size)) for i in ids]

    def save(self, folder: Path | str) -> Path:
        return write(folder, self.FILE, self._model)

    @classmethod
    def load(cls, folder: Path | str) -> BpeTokenizer:
        path = Path(folder) / cls.FILE
        try:
            model = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot read the tokenizer ({error.strerror})") from error
        if not model:  # of which sentencepiece would complain on standard error, for every piece it is asked for
            raise UserError(f"{path}: empty, not a sentencepiece model")
        try:
            return cls(model)
        except RuntimeError as error:
            raise UserError(f"{path}: not a sentencepiece model") from error


KINDS: dict[str, type] = {kind.KIND: kind for kind in (BpeTokenizer, CharTokenizer, PhoneTokenizer)}


def train_tokenizer(
    texts: Iterable[str],
    kind: str,
    vocab_size: int | None,
    folder: Path | str,
    guess: Callable[[Sequence[str]], Lexicon] | None = None,
) -> Tokenizer:
    """Train a tokenizer of `kind` ('bpe', 'char', 'phone') on `texts`, save it in `folder` and return it.

    vocab_size: number of ids, with blank and <unk>.  'bpe' has exactly as many, or raises a UserError with the number that
    the text allows.  For 'char' it is a limit (the rarest characters become <unk>), and None means all characters.
    'phone' requires None.  guess: pronounces words that CMUdict lacks, for 'phone'; without it they are left out.
    """
    if kind not in KINDS:
        raise UserError(f"unknown tokenizer kind {kind!r}: use one of {', '.join(KINDS)}")
    if kind == "bpe" and vocab_size is None:
        raise UserError("a bpe tokenizer needs a vocab_size, for instance 500")
    more = {"guess": guess} if kind == "phone" else {}
    tokenizer: Tokenizer = KINDS[kind].train(texts, vocab_size, **more)
    tokenizer.save(folder)
    return tokenizer


def has_tokenizer(folder: Path | str) -> bool:
    return any((Path(folder) / kind.FILE).is_file() for kind in KINDS.values())


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Load the tokenizer of a model folder.  The file's name gives its kind.  UserError if there are none or several."""
    found = [kind for kind in KINDS.values() if (Path(folder) / kind.FILE).is_file()]
    if not found:
        names = ", ".join(kind.FILE for kind in KINDS.values())
        raise UserError(f"{folder}: none of {names} is here: is this a model folder?")
    if len(found) > 1:
        names = " and ".join(kind.FILE for kind in found)
        raise UserError(f"{folder}: {names} are here; delete the one that is not the model's")
    tokenizer: Tokenizer = found[0].load(folder)
    if tokenizer.vocab_size < 3:
        raise UserError(
            f"{Path(folder) / found[0].FILE}: no units are in this tokenizer, so no text can be written with it"
        )
    return tokenizer


def _sentencepiece():
    try:
        import sentencepiece
    except ImportError as error:
        raise missing_extra("sentencepiece", "train") from error
    return sentencepiece
