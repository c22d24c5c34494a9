"""Pretraining on speech alone: the encoder guesses what was said where it may not listen.

BEST-RQ (C.-C. Chiu et al., "Self-supervised learning with random-projection quantizer", 2022): a projection and a codebook
that are drawn once and never trained give every encoder frame a code; spans of frames are replaced by noise, and the encoder
names the codes that lie beneath.  No teacher, no clusters, nothing that could collapse.  On the very speech that is trained on
later it is worth while, too (I. Amos et al., "Never train from scratch", 2024).
Shapes: b batch, t feature frames, u encoder frames (t / model.subsampling), m mels, d d_model, c codes.
"""

from __future__ import annotations

import dataclasses
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.audio.augment import vocal_tract_length
from samba_asr.config import AugmentConfig, LossConfig, ModelConfig, PretrainConfig
from samba_asr.errors import UserError
from samba_asr.models.asr import Losses, draw_block
from samba_asr.models.encoder import AcousticModel
from samba_asr.streaming import mask

NOISE = 0.1  # deviation of what is heard in the place of a frame, that of speech being 1


class Pretraining(nn.Module):
    def __init__(self, config: ModelConfig, pretrain: PretrainConfig):
        super().__init__()
        for name in ("codes", "dim", "span"):
            if getattr(pretrain, name) < 1:
                raise UserError(f"pretrain.{name}={getattr(pretrain, name)}: give 1 or more")
        if not 0 < pretrain.share < 1:
            raise UserError(f"pretrain.share={pretrain.share}: the share of frames that are hidden, between 0 and 1")
        self.config, self.pretrain = config, pretrain
        # What conditions the upper layers on the text has no text to learn from.
        self.acoustic = AcousticModel(dataclasses.replace(config, self_conditioning=()))
        drawn = torch.Generator().manual_seed(0)  # the same codes whatever the seed of the run
        projection = torch.empty(config.subsampling * config.features.mels, pretrain.dim)
        nn.init.xavier_uniform_(projection, generator=drawn)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", F.normalize(torch.randn(pretrain.codes, pretrain.dim, generator=drawn)))
        self.head = nn.Linear(config.d_model, pretrain.codes)

    @property
    def features(self):
        return self.acoustic.features

    def draw_block(self, rng: random.Random) -> int:
        return draw_block(self.config, rng)

    def codes(self, features: Tensor) -> Tensor:
        """(b, t, m) normalised log-mel -> (b, u) codes."""
        n = self.config.subsampling
        u = features.shape[1] // n
        stacked = features[:, : u * n].reshape(len(features), u, -1).float()
        return (F.normalize(stacked @ self.projection, dim=-1) @ self.codebook.T).argmax(
            -1
        )  # the nearest on the sphere

    def hidden(self, lengths: Tensor, generator: torch.Generator | None) -> Tensor:
        """(b, u) which of the `lengths` (b,) encoder frames are hidden: spans, so many of them that `share` would be if none met.

        At least one frame of every row that has any.
        """
        span, lengths = self.pretrain.span, lengths.cpu()
        u = int(lengths.max()) if len(lengths) else 0
        valid = torch.arange(u) < lengths[:, None]
        begins = (torch.rand(len(lengths), u, generator=generator) < self.pretrain.share / span) & valid
        one = (torch.rand(len(lengths), generator=generator) * lengths).long()
        begins |= (torch.arange(u) == one[:, None]) & ~begins.any(1, keepdim=True)
        reached = F.max_pool1d(F.pad(begins.float(), (span - 1, 0))[:, None], span, 1)[:, 0] > 0 if u else begins
        return reached & valid

    def guess(
        self, audio: Tensor, lengths: Tensor, *, block: int, generator: torch.Generator | None, vocal_tract: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of audio (b, s), lengths (b,) in samples: the rows of the n hidden frames (n,), logits (n, c) and the codes (n,)."""
        with torch.no_grad():
            features, lengths = self.features(audio.unsqueeze(-1), lengths)  # (b, t, m)
            features = mask(features, lengths)
            if vocal_tract:
                features = vocal_tract_length(features, generator, spread=vocal_tract, centres=self.features.centres)
            n = self.config.subsampling
            hidden = self.hidden(lengths // n, generator).to(features.device)  # (b, u)
            truth = self.codes(features)
            covered = F.pad(hidden.repeat_interleave(n, 1), (0, features.shape[1] - n * hidden.shape[1]))
            noise = NOISE * torch.randn(features.shape, generator=generator).to(features)
            features = torch.where(covered[..., None], noise, features)
        frames, _ = self.acoustic.encoder(*self.acoustic.subsampling(features, lengths), block)  # (b, u, d)
        rows, _ = hidden.nonzero(as_tuple=True)
        return rows, self.head(frames[:, : hidden.shape[1]][hidden]), truth[:, : hidden.shape[1]][hidden]

    def forward(
        self,
        batch,
        *,
        block: int = -1,
        loss: LossConfig | None = None,
        augment: AugmentConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Training losses of a batch, as the trainer asks for them: nats a hidden frame, times the "tokens" of an utterance,
        by whose number the trainer divides (`TrainingSet` without a tokenizer gives one an encoder frame)."""
        rows, logits, truth = self.guess(
            batch.audio,
            batch.lengths,
            block=block,
            generator=generator,
            vocal_tract=augment.vocal_tract if augment else 0.0,
        )
        nats = F.cross_entropy(logits.float(), truth, reduction="none")
        zero = nats.new_zeros(len(batch.lengths))
        count = zero.index_add(0, rows, torch.ones_like(nats)).clamp(min=1)
        nats = zero.index_add(0, rows, nats) / count * batch.token_lengths
        return Losses(nats, zero, zero, zero, zero, zero)
