"""The objective of the pronunciation network: CTC of phones over letters."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from samba_asr.models.pronouncer import Pronouncer
from samba_asr.training.objectives.base import BatchFields, Objective, Outcome


class PronunciationObjective(Objective):
    """-ln p of the phones of words.  The audio of a batch has letters, its tokens are phones.

    It is not registered by name, because it is not an objective of speech.
    """

    net: Pronouncer

    def compute(self, batch: BatchFields, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        log_probs, lengths = self.net.log_probs(batch.audio.long(), batch.lengths)
        nats = F.ctc_loss(
            log_probs.transpose(0, 1), batch.tokens, lengths, batch.token_lengths, reduction="none", zero_infinity=True
        )
        return Outcome(nats, {}, batch.token_lengths)
