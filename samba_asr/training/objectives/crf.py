"""CTC-CRF as a term of the speech objective, and its trigram of units.

The trigram is counted in the training texts.  It is full: every unit has a probability after every pair of units.  Unseen
trigrams get their probability by Witten-Bell interpolation, from the number of different units seen in the context:

    p(k | i j) = (c(i j k) + n(i j) p(k | j)) / (c(i j) + n(i j))        n: different units seen after i j

and likewise for bigrams.  Each unigram count is increased by one.  With some 80 phones it takes 2 MB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from samba_asr.config import Config
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.ops.crf import log_partition
from samba_asr.training.objectives.terms import Encoded, Given, Term, terms

MOST = 512  # units; they take a gigabyte of probabilities, and as many products per frame


def trigram(texts: Iterable[Sequence[int]], v: int) -> Tensor:
    """Return (v, v, v) float32 log p(k | i j), at [i, j, k].  A text is padded with two 0 before it, and one 0 as its end.

    UserError for more than 512 units.
    """
    if v > MOST:
        raise UserError(
            f"loss.crf sums over all pairs of units, and {v} are too many: use at most {MOST}, preferably phones"
        )
    counts = torch.zeros(v * v * v, dtype=torch.float64)
    for text in texts:
        units = torch.tensor([0, 0, *text, 0])
        keys = (units[:-2] * v + units[1:-1]) * v + units[2:]
        counts.index_add_(0, keys, torch.ones(len(keys), dtype=torch.float64))
    three = counts.view(v, v, v)
    two = three.sum(0)
    one = two.sum(0) + 1
    p = one / one.sum()
    for seen in (two, three):
        different = (seen > 0).sum(-1, keepdim=True)
        count = seen.sum(-1, keepdim=True) + different
        p = torch.where(count > 0, (seen + different * p) / count.clamp_min(1), p)
    return p.log().float()


def text_log_prob(trigram: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """Return log-probabilities (b,) of texts with their ends; tokens (b, u), the first token_lengths (b,) of them valid."""
    padding = torch.arange(tokens.shape[1], device=tokens.device) >= token_lengths[:, None]
    edge = tokens.new_zeros(len(tokens), 1)
    units = torch.cat(
        [edge, edge, tokens.masked_fill(padding, 0), edge], 1
    )  # (b, 2 + u + 1): the first 0 after the text is its end
    each = trigram[units[:, :-2], units[:, 1:-1], units[:, 2:]]  # (b, u + 1)
    after = torch.arange(each.shape[1], device=tokens.device) > token_lengths[:, None]
    return each.masked_fill(after, 0.0).sum(1)


@terms.register("crf")
class CrfTerm(Term):
    """CTC-CRF loss: -log p(text | x), normalized over all texts (`samba_asr.ops.crf`)."""

    part = "crf"
    trigram: Tensor  # (v, v, v)

    def __init__(self, trigram: Tensor):
        super().__init__()
        self.register_buffer("trigram", trigram, persistent=False)  # counted again in a resumed run

    @classmethod
    def build(cls, net: AsrModel, config: Config, given: Given) -> CrfTerm:
        if given.trigram is None:
            raise UserError(
                "loss.crf needs a trigram of the training texts: give the speech objective `trigram` "
                "(samba_asr.training.objectives.crf.trigram)"
            )
        return cls(given.trigram)

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        return self.loss(given.ctc, given.log_probs, given.lengths, given.tokens, given.token_lengths)

    def loss(self, ctc: Tensor, log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        """Return -log p(text | x) (b,); 0 if the audio is too short for its text.

        ctc: (b,) -log p(text | x) of CTC, 0 without an alignment; log_probs (b, t, v), lengths (b,); tokens (b, u),
        token_lengths (b,).
        """
        texts = text_log_prob(self.trigram, tokens, token_lengths)
        return (ctc + log_partition(log_probs, lengths, self.trigram) - texts).masked_fill(ctc == 0, 0.0)
