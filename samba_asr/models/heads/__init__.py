"""Heads by name (model.head).  A new head is one file here and one line below.

A head is a `StreamingModule` built from (d_model, vocab_size).  It turns encoder frames (b, t, d) into log-probabilities
(b, t, v) of the blank (0) and the tokens, float32 or wider.  Losses and searches read these.
"""

from __future__ import annotations

from samba_asr.models.heads.ctc import CtcHead
from samba_asr.registry import Registry

heads = Registry("head")
heads.register("ctc")(CtcHead)

__all__ = ["CtcHead", "heads"]
