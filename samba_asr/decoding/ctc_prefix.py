"""CTC probabilities of the beginnings of texts, for searches that write a text unit by unit.

p(g, ...) is the probability of all texts that begin with g.  It comes from the probabilities of all alignments of g itself up to
each frame, by their last frame: S. Watanabe et al., "Hybrid CTC/attention architecture for end-to-end speech recognition", 2017,
algorithm 2.
Shapes: n prefixes, t frames, v units, 0 is the blank.
"""

from __future__ import annotations

import numpy as np

from samba_asr.decoding.base import BLANK


def start(log_probs: np.ndarray) -> np.ndarray:
    """Return the alignments (1, t, 2) of the empty text with log_probs (t, v), t above 0; see `extend`."""
    paths = np.full((1, len(log_probs), 2), -np.inf)
    paths[0, :, 1] = np.cumsum(log_probs[:, BLANK])
    return paths


def extend(
    log_probs: np.ndarray, paths: np.ndarray, last: np.ndarray, units: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Extend each of n prefixes by a unit.

    paths (n, t, 2): ln of the probability of all alignments of a prefix with the first frames, whose last frame is its last
    unit, or blank.  last (n,): the last unit of each; 0 for the empty text.  units (n,): what follows.
    Returns ln p (n,) of all texts that begin with the longer prefix, and its paths.
    """
    t = len(log_probs)
    unit, blank = log_probs[:, units], log_probs[:, BLANK]  # (t, n), (t,)
    # An equal neighbor needs a blank in between.
    before = np.logaddexp(paths[:, :, 1], np.where((last == units)[:, None], -np.inf, paths[:, :, 0])).T  # (t, n)
    new = np.full((t, 2, len(units)), -np.inf)
    empty = last == BLANK
    new[0, 0] = np.where(empty, unit[0], -np.inf)
    for i in range(1, t):
        new[i, 0] = np.logaddexp(new[i - 1, 0], before[i - 1]) + unit[i]
        new[i, 1] = np.logaddexp(new[i - 1, 0], new[i - 1, 1]) + blank[i]
    begins = np.logaddexp.reduce(np.concatenate([new[:1, 0], before[:-1] + unit[1:]]), axis=0)
    return begins, new.transpose(2, 0, 1)


def whole(paths: np.ndarray) -> np.ndarray:
    """Return ln p (n,) of the prefixes as whole texts."""
    return np.logaddexp(paths[:, -1, 0], paths[:, -1, 1])
