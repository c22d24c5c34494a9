"""Terms of the speech objective beside CTC, by name: the name of a term is the key of `loss.*` that is its weight.

Each reads one `Encoded`, so all share one pass through the encoder.  CTC-CRF has a file of its own (crf.py).
Shapes: n views of b utterances, view by view; t encoder frames, d d_model, v vocabulary, u tokens, w a teacher's channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import Config
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.registry import Registry
from samba_asr.streaming import mask, valid_mask
from samba_asr.training.objectives.base import Batch

terms = Registry("loss")


class Encoded(NamedTuple):
    """A batch after the encoder, with the texts repeated for every view."""

    frames: Tensor  # (n b, t, d)
    lengths: Tensor  # (n b,) frames
    log_probs: Tensor  # (n b, t, v) of CTC
    ctc: Tensor  # (n b,) -log p(text | x) of CTC; 0 where the audio is too short for its text
    tokens: Tensor  # (n b, u)
    token_lengths: Tensor  # (n b,)
    batch: Batch  # b utterances


class Term(nn.Module):
    """A loss of the speech objective: made with `build`, called with the net and an `Encoded`."""

    part: str  # its name in the log

    @classmethod
    def build(cls, net: AsrModel, config: Config, trigram: Tensor | None) -> Term | None:
        """The term as `config` has it; None where the net has nothing that it could train.

        trigram: (v, v, v) of the training texts' units (samba_asr.training.objectives.crf), if it was counted.
        """
        raise NotImplementedError

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        """(n b,) in nats, or (b,) for a term of the first view alone."""
        raise NotImplementedError


@terms.register("decoder")
class DecoderTerm(Term):
    """The decoder's cross-entropy, of the first view: a second would cost more than it teaches."""

    part = "decoder"

    def __init__(self, label_smoothing: float):
        super().__init__()
        self.label_smoothing = label_smoothing

    @classmethod
    def build(cls, net, config, trigram):
        return cls(config.loss.label_smoothing) if net.decoder is not None else None

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        b, decoder = len(given.batch.lengths), net.decoder
        assert decoder is not None  # see build
        start = decoder.init_memory(b, device=given.frames.device, dtype=given.frames.dtype)
        memory = decoder.absorb(given.frames[:b], given.lengths[:b], start)
        return decoder.loss(given.tokens[:b], given.token_lengths[:b], memory, self.label_smoothing)


@terms.register("cr_ctc")
class ConsistencyTerm(Term):
    """CR-CTC: two views of an utterance agree; 0 where there is one view."""

    part = "cr"

    @classmethod
    def build(cls, net, config, trigram):
        return cls()

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        if len(given.ctc) == len(given.batch.lengths):
            return given.ctc.new_zeros(len(given.ctc))
        return consistency(given.log_probs, given.lengths)


def consistency(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """CR-CTC (arXiv 2410.05101, eq. 4): each view's posteriors learn from the other's, held fixed.

    log_probs (2b, t, v): the two views of b utterances.  Returns (2b,) KL divergences summed over valid frames.
    """
    target = log_probs.detach().roll(log_probs.shape[0] // 2, 0)
    kl = F.kl_div(log_probs, target, reduction="none", log_target=True).sum(-1)  # (2b, t)
    return kl.masked_fill(~valid_mask(lengths, kl.shape[1]), 0).sum(1)


@terms.register("teacher")
class TeacherTerm(Term):
    """The squared distance from a teacher's frames, of a linear map of the encoder's (the pupil, which no model folder has)."""

    part = "teacher"

    def __init__(self, d_model: int, channels: int):
        super().__init__()
        self.pupil = nn.Linear(d_model, channels)

    @classmethod
    def build(cls, net, config, trigram):
        if not config.model.teacher:
            raise UserError(
                "loss.teacher needs the frames of a teacher: set data.teacher (samba-asr augment teach writes them)"
            )
        return cls(config.model.d_model, config.model.teacher)

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        """(n b,): the mean over channels, summed over the frames that both have."""
        frames, batch = given.frames, given.batch
        if batch.teacher is None or batch.teacher_lengths is None:
            raise UserError("loss.teacher needs batches with a teacher's frames: set data.teacher")
        views = frames.shape[0] // batch.teacher.shape[0]
        t = min(frames.shape[1], batch.teacher.shape[1])
        lengths = given.lengths.minimum(batch.teacher_lengths.repeat(views))
        guess = self.pupil(frames[:, :t]).float()
        apart = mask(guess - batch.teacher[:, :t].repeat(views, 1, 1), lengths)  # (n b, t, w)
        return apart.square().mean(-1).sum(1)
