"""A language model of four words, by hand, and tokenizers that write them."""

from __future__ import annotations

from pathlib import Path

from samba_asr.decoding.ngram import NgramModel, read_ngram
from samba_asr.text.lexicon import Lexicon
from samba_asr.text.phones import PhoneTokenizer
from samba_asr.text.tokenizer import CharTokenizer

ARPA = """\
made by hand

\\data\\
ngram 1=7
ngram 2=6
ngram 3=2

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.3
-0.9\t</s>
-0.5\ta\t-0.2
-0.8\tb\t-0.4
-0.7\tab\t-0.1
-1.1\taab

\\2-grams:
-0.2\t<s> a\t-0.15
-0.9\t<s> ab
-0.3\ta b\t-0.25
-0.6\tb </s>
-0.1\tab aab\t0.0
-0.45\tb a

\\3-grams:
-0.05\t<s> a b
-0.35\ta b </s>

\\end\\
"""

CHARS = CharTokenizer(["▁", "a", "b"])  # five ids
PHONES = PhoneTokenizer(Lexicon({"a": (("A",),), "b": (("A",), ("B",)), "ab": (("A", "B"),)}))  # ids: ▁A ▁B A B


def write_arpa(folder: Path, text: str = ARPA, name: str = "lm.arpa") -> Path:
    (folder / name).write_text(text)
    return folder / name


def model(folder: Path) -> NgramModel:
    return read_ngram(write_arpa(folder))
