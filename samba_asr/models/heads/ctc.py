"""The CTC head: one linear map.

A. Graves et al., "Connectionist temporal classification", 2006.  Shapes: b batch, t encoder frames, d d_model, v vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn

from samba_asr.streaming import Step, StreamingModule, mask


class CtcHead(StreamingModule):
    """Encoder frames (b, t, d) -> log-probabilities (b, t, v) of the blank (0) and the tokens, float32 or wider."""

    exportable = True

    def __init__(self, d_model: int, vocab_size: int):
        super().__init__()
        self.linear = nn.Linear(d_model, vocab_size)

    def init_state(self, batch, *, device=None, dtype=None):
        return ()

    def step(self, x, lengths, state):
        logits = self.linear(mask(x, lengths))
        return Step(logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)), lengths, state)
