"""The probability of whole texts of tokens by CTC: the sum over all their alignments, for some texts at once.

t  frames     n  texts     u  tokens     s = 2 u + 1  tokens with the blanks around them     v  ids, 0 is the blank
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence

import numpy as np

from samba_asr.decoding.base import BLANK

MOST = 1 << 26  # numbers in a table of alignments


def text_log_probs(log_probs: np.ndarray, texts: Sequence[Sequence[int]]) -> list[float] | None:
    """Return ln of the sum over all alignments of each text's tokens with log_probs (t, v); -inf for impossible ones.

    None if one text alone would take more than `MOST` numbers, as minutes of speech without a cut do.
    """
    size = len(log_probs) * (1 + 2 * max(map(len, texts), default=0))  # of a text's table
    if size > MOST:
        return None
    way = by_torch if importlib.util.find_spec("torch") else by_numpy
    found, step = [], max(1, MOST // max(size, 1))
    for some in (texts[at : at + step] for at in range(0, len(texts), step)):
        found += way(np.asarray(log_probs), some)
    return found


def by_numpy(log_probs: np.ndarray, texts: Sequence[Sequence[int]]) -> list[float]:
    """The forward algorithm of CTC (A. Graves et al., 2006, section 4.1)."""
    lengths = np.array([len(text) for text in texts])
    labels = np.full((len(texts), 1 + 2 * int(lengths.max())), BLANK)  # (n, s)
    for row, text in zip(labels, texts, strict=True):
        row[1 : 2 * len(text) : 2] = text
    skips = np.full(labels.shape, -np.inf)  # 0 where the blank before a token may be left out
    skips[:, 3::2][labels[:, 3::2] != labels[:, 1:-2:2]] = 0.0
    total = np.full(labels.shape, -np.inf)
    total[:, 0] = 0.0  # before the first frame, and a token may come with it
    for t, frame in enumerate(log_probs.astype(np.float64)):
        stay, total = total, total.copy()
        np.logaddexp(total[:, 1:], stay[:, :-1], out=total[:, 1:])
        if t:
            np.logaddexp(total[:, 2:], stay[:, :-2] + skips[:, 2:], out=total[:, 2:])
        total += frame[labels]
    rows = np.arange(len(texts))
    ends = total[rows, 2 * lengths]
    return np.where(lengths > 0, np.logaddexp(ends, total[rows, np.maximum(2 * lengths - 1, 0)]), ends).tolist()


def by_torch(log_probs: np.ndarray, texts: Sequence[Sequence[int]]) -> list[float]:
    """The same by torch, in a tenth of the time."""
    import torch
    import torch.nn.functional as F

    n, width = len(texts), max(map(len, texts))
    tokens = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts], dtype=torch.long).view(n, width)
    lengths = torch.tensor([len(text) for text in texts])
    frames = torch.from_numpy(log_probs)[:, None].expand(-1, n, -1)
    loss = F.ctc_loss(frames, tokens, torch.full((n,), len(log_probs)), lengths, blank=BLANK, reduction="none")
    return torch.nan_to_num(-loss, nan=-math.inf, neginf=-math.inf).tolist()
