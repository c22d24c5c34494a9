"""BEST-RQ: self-supervised pretraining by prediction of masked frames.

C.-C. Chiu et al., "Self-supervised learning with random-projection quantizer", 2022: a random projection and a random codebook,
both fixed, give every encoder frame a code.  Spans of frames are replaced by noise, and the encoder predicts their codes.  There
is no teacher and no clustering, so training cannot collapse.  It helps even if the same speech is trained on later (I. Amos
et al., "Never train from scratch", 2024).
Shapes: b batch, t feature frames, u encoder frames (t / model.subsampling), m mels, d d_model, c codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.config import Config
from samba_asr.errors import UserError
from samba_asr.models.acoustic import AcousticModel
from samba_asr.training.objectives.base import BatchFields, Outcome, objectives
from samba_asr.training.objectives.pretraining import Pretraining, Sums, check_spans, cover, draw_hidden, sum_of_frames
from samba_asr.training.score import Score

NOISE = 0.1  # standard deviation of the noise in place of a frame; that of speech is 1


@objectives.register("best_rq")
class BestRq(Pretraining):
    """Cross-entropy of the codes of masked frames, in nats per masked frame times the encoder frames of the utterance."""

    projection: Tensor  # (subsampling m, dim)
    codebook: Tensor  # (codes, dim), of length 1

    def __init__(self, net: AcousticModel, config: Config):
        super().__init__(net, config)
        pretrain, model = config.pretrain, config.model
        for name in ("codes", "dim"):
            if getattr(pretrain, name) < 1:
                raise UserError(f"pretrain.{name}={getattr(pretrain, name)}: give 1 or more")
        check_spans(pretrain)
        drawn = torch.Generator().manual_seed(0)  # the same codes for every seed of a run
        projection = torch.empty(model.subsampling * model.features.mels, pretrain.dim)
        nn.init.xavier_uniform_(projection, generator=drawn)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", F.normalize(torch.randn(pretrain.codes, pretrain.dim, generator=drawn)))
        self.head = nn.Linear(model.d_model, pretrain.codes)

    def codes(self, features: Tensor) -> Tensor:
        """Return the codes (b, u) of normalized log-mel (b, t, m)."""
        projected = self.stacked(features) @ self.projection
        return (F.normalize(projected, dim=-1) @ self.codebook.T).argmax(-1)  # the nearest on the sphere

    def hidden(self, lengths: Tensor, generator: torch.Generator | None) -> Tensor:
        """See `draw_hidden`."""
        return draw_hidden(lengths, self.pretrain, generator)

    def guess(
        self, batch: BatchFields, *, block: int, generator: torch.Generator | None, augment: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows (n,), logits (n, c) and codes (n,) of the n masked frames."""
        features, lengths = self.features(batch, augment, generator)
        with torch.no_grad():
            n = self.config.subsampling
            hidden = self.hidden(lengths // n, generator).to(features.device)  # (b, u)
            truth = self.codes(features)
            noise = NOISE * torch.randn(features.shape, generator=generator).to(features)
            features = torch.where(cover(hidden, n, features.shape[1]), noise, features)
        frames, _ = self.net.encoder(*self.net.subsampling(features, lengths), block)  # (b, u, d)
        rows, _ = hidden.nonzero(as_tuple=True)
        return rows, self.head(frames[:, : hidden.shape[1]][hidden]), truth[:, : hidden.shape[1]][hidden]

    def compute(self, batch: BatchFields, *, block: int, augment: bool, generator: torch.Generator | None) -> Outcome:
        rows, logits, truth = self.guess(batch, block=block, augment=augment, generator=generator)
        nats = F.cross_entropy(logits.float(), truth, reduction="none")
        units = self.units(batch)
        return Outcome(sum_of_frames(nats, rows, units), {}, units)

    def measure(self, batch: BatchFields, *, block: int, generator: torch.Generator) -> Sums:
        _, logits, truth = self.guess(batch, block=block, generator=generator)
        nats = float(F.cross_entropy(logits.float(), truth, reduction="sum"))
        wrong = int((logits.argmax(-1) != truth).sum())
        return {"error": (100 * wrong, len(truth)), "nats": (nats, len(truth))}

    def score(self, means: dict[str, float]) -> Score:
        return Score("error", means["error"], "% of hidden frames")

    def describe(self, means: dict[str, float]) -> str:
        return f"{means['error']:.2f} % of the hidden frames not guessed, {means['nats']:.4f} nats a frame"
