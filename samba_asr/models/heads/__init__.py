"""Heads by the names that model.head gives them.  A new one is one file here, and one line below.

A head is a `StreamingModule` made of (d_model, vocab_size).  It turns encoder frames (b, t, d) into log-probabilities
(b, t, v) of the blank (0) and the tokens, float32 or wider: what CTC's losses and searches read.
"""

from __future__ import annotations

from samba_asr.models.heads.ctc import CtcHead
from samba_asr.registry import Registry

heads = Registry("head")
heads.register("ctc")(CtcHead)

__all__ = ["CtcHead", "heads"]
