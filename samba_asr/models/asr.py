"""The recogniser's model: acoustic model, CTC head, Mamba decoder; and its training losses.

Shapes: b batch, s samples, t encoder frames, u tokens, v vocabulary.
"""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.audio.augment import equalize, spec_augment, vocal_tract_length
from samba_asr.audio.features import LogMel
from samba_asr.config import AugmentConfig, LossConfig, ModelConfig
from samba_asr.errors import UserError
from samba_asr.models.crf import text_log_prob
from samba_asr.models.decoder import MambaDecoder
from samba_asr.models.encoder import AcousticModel
from samba_asr.ops.crf import log_partition
from samba_asr.streaming import Step, StreamingModule, mask, valid_mask


class CtcHead(StreamingModule):
    """Encoder frames (b, t, d) -> log-probabilities (b, t, v) of the blank (0) and the tokens, float32 or wider."""

    def __init__(self, d_model: int, vocab_size: int):
        super().__init__()
        self.linear = nn.Linear(d_model, vocab_size)

    def init_state(self, batch, *, device=None, dtype=None):
        return ()

    def step(self, x, lengths, state):
        logits = self.linear(mask(x, lengths))
        return Step(logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)), lengths, state)


class Losses(NamedTuple):
    """Of each utterance, (b,), summed over its tokens, in nats; zeros where a loss is not used."""

    total: Tensor
    ctc: Tensor
    crf: Tensor
    decoder: Tensor
    cr: Tensor
    teacher: Tensor


class SpeechBatch(Protocol):
    """What training hands over: see `samba_asr.data.dataset.Batch`."""

    audio: Tensor  # (b, s)
    lengths: Tensor  # (b,) samples
    tokens: Tensor  # (b, u)
    token_lengths: Tensor  # (b,)
    teacher: Tensor | None  # (b, t, w) frames of a teacher
    teacher_lengths: Tensor | None  # (b,)


class AsrModel(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.vocab_size < 2:
            raise UserError(
                f"model.vocab_size {config.vocab_size} must be the tokenizer's: at least blank and one token"
            )
        self.config = config
        self.acoustic = AcousticModel(config)
        self.ctc = CtcHead(config.d_model, config.vocab_size)
        decoder = config.decoder
        self.decoder = MambaDecoder(decoder, config.d_model, config.vocab_size) if decoder.layers else None
        # Of training alone: a model folder is written without it.
        self.pupil = nn.Linear(config.d_model, config.teacher) if config.teacher else None
        self.trigram: Tensor | None = None  # (v, v, v) of the training texts' units: what `loss.crf` compares with

    @property
    def features(self) -> LogMel:
        return self.acoustic.features

    def draw_block(self, rng: random.Random) -> int:
        """A block size for one training batch: -1 (the whole utterance) or one of config.blocks."""
        return draw_block(self.config, rng)

    def log_probs(self, audio: Tensor, lengths: Tensor, *, block: int = -1) -> tuple[Tensor, Tensor]:
        """CTC log-probabilities (b, t, v) and lengths (b,) of whole utterances: audio (b, s), lengths (b,) in samples."""
        return self.ctc(*self.acoustic(audio.unsqueeze(-1), lengths, block))

    def forward(
        self,
        batch: SpeechBatch,
        *,
        block: int = -1,
        loss: LossConfig,
        augment: AugmentConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Training losses of a batch.  SpecAugment, drawn from `generator`, where `augment` is given."""
        with torch.no_grad():
            features, lengths = self.features(batch.audio.unsqueeze(-1), batch.lengths)  # (b, t, m)
        tokens, token_lengths = batch.tokens, batch.token_lengths
        b = tokens.shape[0]
        views = 2 if loss.cr_ctc > 0 and augment is not None else 1  # without masks there is nothing to agree about
        if views == 2:  # the same utterances under two draws of SpecAugment
            features, lengths = torch.cat([features, features]), torch.cat([lengths, lengths])
            tokens, token_lengths = torch.cat([tokens, tokens]), torch.cat([token_lengths, token_lengths])
        if augment is not None:
            if augment.vocal_tract:
                centres = self.features.centres
                features = vocal_tract_length(features, generator, spread=augment.vocal_tract, centres=centres)
            if augment.equalizer_db:
                features = equalize(features, generator, most_db=augment.equalizer_db, scale=self.features.std)
            features = spec_augment(
                features,
                lengths,
                generator,
                time_masks=augment.time_masks,
                time_width=augment.time_width,
                time_ratio=augment.time_ratio,
                freq_masks=augment.freq_masks,
                freq_width=augment.freq_width,
            )
        frames, lengths, middle = self.acoustic.encoder.read(
            *self.acoustic.subsampling(features, lengths), block
        )  # (b, t, d)
        log_probs, _ = self.ctc(frames, lengths)
        ctc, *read = (_ctc_loss(v, tokens, lengths, token_lengths) for v in (log_probs, *middle))
        together = ctc.lerp(torch.stack(read).mean(0), loss.intermediate) if read else ctc
        decoder = cr = ctc.new_zeros(b)
        crf = torch.zeros_like(ctc)
        if loss.crf > 0:
            crf = self.crf_loss(ctc, log_probs, lengths, tokens, token_lengths)
        if self.decoder is not None and loss.decoder > 0:  # of the first view: a second would cost more than it teaches
            start = self.decoder.init_memory(b, device=frames.device, dtype=frames.dtype)
            memory = self.decoder.absorb(frames[:b], lengths[:b], start)
            decoder = self.decoder.loss(tokens[:b], token_lengths[:b], memory, loss.label_smoothing)
        teacher = torch.zeros_like(ctc)
        if loss.teacher > 0:
            teacher = self.teacher_loss(frames, lengths, batch)
        if views == 2:
            cr = consistency(log_probs, lengths)
            ctc, crf, together, cr, teacher = (v.view(2, -1).mean(0) for v in (ctc, crf, together, cr, teacher))
        total = (
            loss.ctc * together + loss.crf * crf + loss.decoder * decoder + loss.cr_ctc * cr + loss.teacher * teacher
        )
        return Losses(total, ctc, crf, decoder, cr, teacher)

    def teacher_loss(self, frames: Tensor, lengths: Tensor, batch: SpeechBatch) -> Tensor:
        """(n b,) squared distance of frames (n b, t, d), of n views, from the teacher's: the mean over channels, summed over the
        frames that both have."""
        if self.pupil is None or batch.teacher is None:
            raise UserError(
                "loss.teacher wants the frames of a teacher: set data.teacher (samba-asr augment teach writes them)"
            )
        views = frames.shape[0] // batch.teacher.shape[0]
        t = min(frames.shape[1], batch.teacher.shape[1])
        lengths = torch.minimum(lengths, batch.teacher_lengths.repeat(views))
        told = self.pupil(frames[:, :t]).float()
        apart = mask(told - batch.teacher[:, :t].repeat(views, 1, 1), lengths)  # (n b, t, w)
        return apart.square().mean(-1).sum(1)

    def crf_loss(
        self, ctc: Tensor, log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> Tensor:
        """(b,) -log p(text | x) where texts compete (`samba_asr.ops.crf`); 0 where the audio is too short for its text.

        ctc: (b,) -log p(text | x) of CTC, 0 where there is none; log_probs (b, t, v), lengths (b,);
        tokens (b, u), token_lengths (b,).
        """
        if self.trigram is None:
            raise UserError(
                "loss.crf wants a trigram of the training texts: set AsrModel.trigram (samba_asr.models.crf.trigram)"
            )
        self.trigram = self.trigram.to(log_probs.device)
        texts = text_log_prob(self.trigram, tokens, token_lengths)
        return (ctc + log_partition(log_probs, lengths, self.trigram) - texts).masked_fill(ctc == 0, 0.0)


def draw_block(config: ModelConfig, rng: random.Random) -> int:
    if not config.blocks or rng.random() < config.full_block:
        return -1
    return rng.choice(config.blocks)


def _ctc_loss(log_probs: Tensor, tokens: Tensor, lengths: Tensor, token_lengths: Tensor) -> Tensor:
    """(b,) in nats.  A text that its audio is too short for has no alignment: infinite loss, no gradient; it counts as 0."""
    log_probs = log_probs.transpose(0, 1)
    return F.ctc_loss(log_probs, tokens, lengths, token_lengths, reduction="none", zero_infinity=True)


def consistency(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """CR-CTC (arXiv 2410.05101, eq. 4): each view's posteriors learn from the other's, held fixed.

    log_probs (2b, t, v): the two views of b utterances.  Returns (2b,) KL divergences summed over valid frames.
    """
    target = log_probs.detach().roll(log_probs.shape[0] // 2, 0)
    kl = F.kl_div(log_probs, target, reduction="none", log_target=True).sum(-1)  # (2b, t)
    return kl.masked_fill(~valid_mask(lengths, kl.shape[1]), 0).sum(1)
