"""Minimum word error rate as a term of the speech objective: the expected word errors among the best texts of a search.

R. Prabhavalkar et al., "Minimum word error rate training for attention-based sequence-to-sequence models", arXiv 1712.01818,
section 3.2, with the n-best list of the search that decodes afterwards, language model and lexicon included:

    loss = sum_i p_i W(y_i),   p_i = exp(s_i) / sum_j exp(s_j)        W: word errors of text y_i, s_i: its score in the search

The language model's part of s_i is a constant, and the gradient goes through log p(y_i | x) of CTC.  The paper subtracts the mean
of W, which would change no gradient here, because the p_i sum to one.  CTC or CTC-CRF should have trained the model before, and
their losses stay on with a small weight.

Shapes: b utterances, t frames, v vocabulary, n texts of all utterances, u tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from samba_asr.config import Config
from samba_asr.errors import UserError
from samba_asr.metrics.wer import score
from samba_asr.models.asr import AsrModel
from samba_asr.training.objectives.terms import Encoded, Given, Term, ctc_loss, terms


class Reading(NamedTuple):
    """One text of a search."""

    tokens: tuple[int, ...]
    text: str  # its words
    score: float  # in nats: CTC's log-probability of the tokens, and what the search adds to it


Reader = Callable[[Tensor, Tensor], list[list[Reading]]]
"""Of log-probabilities (b, t, v) and their lengths (b,), the best readings of each utterance, one at least."""


@terms.register("mwer")
class MwerTerm(Term):
    """Expected word errors among the best readings of the first view.  The search waits for the device."""

    part = "mwer"

    def __init__(self, read: Reader):
        super().__init__()
        self.read = read

    @classmethod
    def build(cls, net: AsrModel, config: Config, given: Given) -> MwerTerm:
        if given.read is None:
            raise UserError("loss.mwer needs the texts of a search: give the speech objective `read`")
        return cls(given.read)

    def forward(self, net: AsrModel, given: Encoded) -> Tensor:
        """Return the expected word errors (b,)."""
        b, references = len(given.batch.lengths), given.batch.texts
        if references is None:
            raise UserError("loss.mwer needs batches with texts")
        log_probs, lengths = given.log_probs[:b], given.lengths[:b].cpu()
        found = self.read(log_probs.detach(), lengths)
        errors = word_errors(references, found)
        rows = [i for i, readings in enumerate(found) for _ in readings]
        ctc = ctc_losses(log_probs, lengths, rows, [r.tokens for readings in found for r in readings])
        scores = log_probs.new_tensor([r.score for readings in found for r in readings])
        scores = scores - (ctc - ctc.detach())  # the value of the search, the gradient of CTC
        return expected(scores, errors.to(scores), torch.tensor(rows, device=scores.device), b)


def word_errors(references: Sequence[str], found: Sequence[Sequence[Reading]]) -> Tensor:
    """Return the word errors (n,) of all readings, utterance by utterance, against the reference of each utterance."""
    texts = [(reference, r.text) for reference, readings in zip(references, found, strict=True) for r in readings]
    numbered = [(str(i), *pair) for i, pair in enumerate(texts)]
    report = score({i: reference for i, reference, _ in numbered}, {i: text for i, _, text in numbered})
    return torch.tensor([float(u.counts.errors) for u in report.utterances])


def ctc_losses(log_probs: Tensor, lengths: Tensor, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
    """Return -log p (n,) of each text of tokens by CTC, in the frames of its row of log_probs (b, t, v)."""
    token_lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(len(texts), max(1, int(token_lengths.max())), dtype=torch.long)
    for i, text in enumerate(texts):
        tokens[i, : len(text)] = torch.tensor(text, dtype=torch.long)
    return ctc_loss(log_probs[rows], tokens.to(log_probs.device), lengths[rows], token_lengths)


def expected(scores: Tensor, errors: Tensor, rows: Tensor, b: int) -> Tensor:
    """Return the expected errors (b,): those (n,) of the readings of each row, weighted by the softmax of its scores (n,)."""
    most = scores.new_full((b,), -torch.inf).scatter_reduce(0, rows, scores.detach(), "amax")
    weights = (scores - most[rows]).exp()
    zeros = scores.new_zeros(b)
    return zeros.index_add(0, rows, weights * errors) / zeros.index_add(0, rows, weights)
