"""Language models of next to nothing."""

from __future__ import annotations

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
