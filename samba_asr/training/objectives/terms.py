"""Terms of the speech objective besides CTC, by name.  The weight of a term is the key of `loss.*` of the same name.

All terms read the same `Encoded`, so they share one pass through the encoder.  CTC-CRF and MWER are in files of their own.
Shapes: n views of b utterances, view by view; t encoder frames, d d_model, v vocabulary, u tokens, w a teacher's channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import Config
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.registry import Registry
from samba_asr.streaming import mask, valid_mask
from samba_asr.training.objectives.base import BatchFields

if TYPE_CHECKING:
    from samba_asr.training.objectives.mwer import Reader

terms = Registry("loss")


def ctc_loss(log_probs: Tensor, tokens: Tensor, lengths: Tensor, token_lengths: Tensor) -> Tensor:
    """Return the CTC loss (b,) in nats of log_probs (b, t, v); 0, without a gradient, if the audio is too short for its text.

    The lengths are on the CPU, where torch wants them.
    """
    log_probs = log_probs.transpose(0, 1)
    return F.ctc_loss(log_probs, tokens, lengths, token_lengths, reduction="none", zero_infinity=True)


class Given(NamedTuple):
    """Inputs of some terms, besides the net and the configuration; None for those that no term of the configuration needs."""

    trigram: Tensor | None = None  # (v, v, v) of the units of the training texts (samba_asr.training.objectives.crf)
    read: Reader | None = None  # the search (samba_asr.training.objectives.mwer)


class Encoded(NamedTuple):
    """A batch after the encoder, with the texts repeated for every view."""

    frames: Tensor  # (n b, t, d)
    lengths: Tensor  # (n b,) frames
    log_probs: Tensor  # (n b, t, v) of CTC
    ctc: Tensor  # (n b,) -log p(text | x) of CTC; 0 if the audio is too short for its text
    tokens: Tensor  # (n b, u)
    token_lengths: Tensor  # (n b,)
    batch: BatchFields  # b utterances


class Term(nn.Module):
    """A loss of the speech objective, made by `build` and called with the net and an `Encoded`."""

    part: str  # its name in the log

    @classmethod
    def build(cls, net: AsrModel, config: Config, given: Given) -> Term | None:
        """Make the term of `config`; None if the net lacks the part that it trains."""
        raise NotImplementedError

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        """Return the loss (n b,) in nats, or (b,) if the term uses only the first view."""
        raise NotImplementedError


@terms.register("decoder")
class DecoderTerm(Term):
    """Cross-entropy of the decoder on the first view.  The second would cost more than it helps."""

    part = "decoder"

    def __init__(self, label_smoothing: float):
        super().__init__()
        self.label_smoothing = label_smoothing

    @classmethod
    def build(cls, net, config, given):
        return cls(config.loss.label_smoothing) if net.decoder is not None else None

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        b, decoder = len(given.batch.lengths), net.decoder
        assert decoder is not None  # see build
        start = decoder.init_memory(b, device=given.frames.device, dtype=given.frames.dtype)
        memory = decoder.absorb(given.frames[:b], given.lengths[:b], start)
        return decoder.loss(given.tokens[:b], given.token_lengths[:b], memory, self.label_smoothing)


@terms.register("cr_ctc")
class ConsistencyTerm(Term):
    """CR-CTC: consistency of two views of an utterance; 0 with one view."""

    part = "cr"

    @classmethod
    def build(cls, net, config, given):
        return cls()

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        if len(given.ctc) == len(given.batch.lengths):
            return given.ctc.new_zeros(len(given.ctc))
        return consistency(given.log_probs, given.lengths)


def consistency(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return the CR-CTC loss (arXiv 2410.05101, eq. 4): the other view's posteriors, without gradient, are the target.

    log_probs (2b, t, v): the two views of b utterances.  The result is (2b,) KL divergences summed over valid frames.
    """
    target = log_probs.detach().roll(log_probs.shape[0] // 2, 0)
    kl = F.kl_div(log_probs, target, reduction="none", log_target=True).sum(-1)  # (2b, t)
    return kl.masked_fill(~valid_mask(lengths, kl.shape[1]), 0).sum(1)


@terms.register("teacher")
class TeacherTerm(Term):
    """Squared distance of a linear map of the encoder's frames (the pupil, not in model folders) from a teacher's frames."""

    part = "teacher"

    def __init__(self, d_model: int, channels: int):
        super().__init__()
        self.pupil = nn.Linear(d_model, channels)

    @classmethod
    def build(cls, net, config, given):
        if not config.model.teacher:
            raise UserError(
                "loss.teacher needs the frames of a teacher: set data.teacher (written by samba-asr augment teach)"
            )
        return cls(config.model.d_model, config.model.teacher)

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        """Return (n b,), the mean over channels, summed over the frames that both have."""
        frames, batch = given.frames, given.batch
        if batch.teacher is None or batch.teacher_lengths is None:
            raise UserError("loss.teacher needs batches with a teacher's frames: set data.teacher")
        views = frames.shape[0] // batch.teacher.shape[0]
        t = min(frames.shape[1], batch.teacher.shape[1])
        lengths = given.lengths.minimum(batch.teacher_lengths.repeat(views))
        guess = self.pupil(frames[:, :t]).float()
        apart = mask(guess - batch.teacher[:, :t].repeat(views, 1, 1), lengths)  # (n b, t, w)
        return apart.square().mean(-1).sum(1)
