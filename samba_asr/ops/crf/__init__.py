"""The partition function of CTC-CRF: the sum over all possible texts.

CTC normalizes the posteriors of each frame on its own.  CTC-CRF (Xiang and Ou, arXiv 1911.08747, eq. 3 and 4) combines the
frames' scores with a language model of the units, and normalizes over whole texts.  With B the text of a path,

    p(text | x) = sum of exp(s(path, x)) over paths with B(path) = text, times p_LM(text), divided by Z(x)
    Z(x)        = sum of exp(s(path, x)) p_LM(B(path)) over all paths of CTC

so the model learns to discriminate the right text from texts that the language model finds likely.  A search with a language
model needs just that.  (Kaldi's LF-MMI, Povey et al. 2016, is the same idea with other units.)  The language model is a full
trigram, so the history of a path is its last two units and whether a blank has followed them.

naive.py    the recursion over the frames in logarithms: the definition
matmul.py   the same, scaled, in matrix products, with its own backward

Shapes: b batch, t frames, v units.  Unit 0 is the blank; in the trigram it is the end of a text, and the history at its start.
"""

from __future__ import annotations

from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.ops.crf.matmul import log_partition_matmul
from samba_asr.ops.crf.naive import log_partition_naive


def log_partition(log_probs: Tensor, lengths: Tensor, trigram: Tensor, *, backend: str = "auto") -> Tensor:
    """Return log Z of each row, in nats.  Its gradient in log_probs is the posterior of each unit at each frame.

    Args:
        log_probs: (b, t, v) scores of the frames, normalized per frame or not.  Padding after a row's end is not read.
        lengths: (b,) frames of each row.  Without frames, log Z is the log-probability of an empty text.
        trigram: (v, v, v) log p(k | i j) at [i, j, k], finite, float32 or float64; each [i, j] sums to one.
        backend: "auto", "naive" or "matmul".  "auto" takes "matmul", which needs the scores to be log-probabilities.

    Returns (b,) in the dtype of log_probs, float32 or wider.
    """
    v = log_probs.shape[2]
    if trigram.shape != (v, v, v):
        raise UserError(f"the trigram {tuple(trigram.shape)} must be (v, v, v) for the {v} units of log_probs")
    if backend in ("auto", "matmul"):
        return log_partition_matmul(log_probs, lengths, trigram)
    if backend != "naive":
        raise UserError(f"log_partition has no backend {backend!r}: use 'auto', 'naive' or 'matmul'")
    return log_partition_naive(log_probs, lengths, trigram)


__all__ = ["log_partition"]
