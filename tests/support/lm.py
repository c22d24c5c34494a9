"""Language models of next to nothing."""

from __future__ import annotations

import itertools

from samba_asr.config import LmConfig

SMALL_LM = LmConfig(layers=1, d_model=8, d_state=4, headdim=4, ffn_expand=2, dropout=0.0)
UNIGRAMS = """\\data\\
ngram 1=4

\\1-grams:
-2.0\t<unk>
-1.0\t</s>
-0.3\tab
-0.4\tba

\\end\\
"""


def short_words(letters: str, longest: int) -> list[str]:
    """All words of these letters, so that every text has rivals."""
    return ["".join(some) for n in range(1, longest + 1) for some in itertools.product(letters, repeat=n)]


def equally_likely(words: list[str]) -> str:
    """An ARPA file of these words."""
    grams = "".join(f"-1.1\t{word}\n" for word in ["<unk>", "</s>", *words])
    return f"\\data\\\nngram 1={len(words) + 2}\n\n\\1-grams:\n{grams}\n\\end\\\n"
