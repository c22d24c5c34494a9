"""The CTC head: one linear map.

A. Graves et al., "Connectionist temporal classification", 2006.  Shapes: b batch, t encoder frames, d d_model, v vocabulary.
"""

from __future__ import annotations

import torch

from samba_asr.nn.linear import Linear
from samba_asr.streaming import Step, StreamingModule, mask


class CtcHead(StreamingModule):
    """Encoder frames (b, t, d) -> log-probabilities (b, t, v) of the blank (0) and the tokens, float32 or wider."""

    exportable = True

    def __init__(self, d_model: int, vocab_size: int):
        super().__init__()
        self.linear = Linear(d_model, vocab_size)
        self.skip_blanks = (
            0.0  # at a frame of zeros, which an encoder that skips blanks emits: the probability of the blank
        )

    def init_state(self, batch, *, device=None, dtype=None):
        return ()

    def step(self, x, lengths, state):
        x = mask(x, lengths)
        logits = self.linear(x)
        log_probs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        if self.skip_blanks and not self.training:
            others = (1 - self.skip_blanks) / (log_probs.shape[-1] - 1)
            skipped = log_probs.new_tensor([self.skip_blanks, *[others] * (log_probs.shape[-1] - 1)]).log()
            log_probs = torch.where(x.any(-1, keepdim=True), log_probs, skipped)
        return Step(log_probs, lengths, state)
