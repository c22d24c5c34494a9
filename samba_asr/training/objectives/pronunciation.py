"""The objective of the network that pronounces words: CTC of phones over letters."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from samba_asr.models.pronouncer import Pronouncer
from samba_asr.training.objectives.base import Batch, Objective, Outcome


class PronunciationObjective(Objective):
    """-ln p of the phones of words; the audio of a batch is letters, its tokens are phones.

    It is no objective of speech, so it has no name among them.
    """

    net: Pronouncer

    def compute(self, batch: Batch, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        log_probs, lengths = self.net.log_probs(batch.audio.long(), batch.lengths)
        nats = F.ctc_loss(
            log_probs.transpose(0, 1), batch.tokens, lengths, batch.token_lengths, reduction="none", zero_infinity=True
        )
        return Outcome(nats, {}, batch.token_lengths)
