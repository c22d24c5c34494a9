"""Which utterances go into which batch: batches of like durations, shuffled anew each epoch, equal in number per rank.

Everything here is a pure function of its arguments, so a killed run finds its place again from (seed, epoch, batch).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) from whole numbers and strings; the same in every process and on every machine.

    Each random choice in training is seeded by what it belongs to (run, epoch, utterance or batch), never by what was
    drawn before it: so workers, ranks and resumed runs all agree, and no random state has to be saved.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def choose_speed(speeds: Sequence[float], *, seed: int, epoch: int, utterance: str) -> float:
    """The speed factor of one utterance in one epoch."""
    return speeds[derive_seed("speed", seed, epoch, utterance) % len(speeds)]


def epoch_counts(weights: Sequence[float] | np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """How often epoch `epoch` takes each utterance: (n,) whole numbers; weights (n,), at least 0.

    Each comes floor(weight) or ceil(weight) times.  Successive epochs take turns: over any number of them, an utterance comes
    as often as its weights add up to, within 1.  The seed draws whose turn it is.
    """
    weights = np.asarray(weights, dtype=np.float64)
    n = len(weights)
    turns = (np.random.default_rng(seed).permutation(n) + 0.5) / max(n, 1)  # (n,) in (0, 1)
    return (np.floor(weights * epoch + turns) - np.floor(weights * (epoch - 1) + turns)).astype(int)


def bucket_batches(
    seconds: Sequence[float] | np.ndarray, *, batch_seconds: float, buckets: int, seed: int, ranks: int = 1
) -> list[list[int]]:
    """One epoch: every index of `seconds` (n,) in exactly one batch.

    The longest of a batch times its size is at most `batch_seconds`, or the batch is a single utterance.  Utterances
    are sorted into `buckets` of about equal total duration, shuffled inside each, packed in that order (a batch may
    straddle two buckets), and the batches shuffled.

    The number of batches is a multiple of `ranks`; rank r takes batches[r::ranks].  To get there the largest are cut in
    two; only if nothing can be cut (fewer utterances than ranks, or each fills a batch), some batches come twice.
    """
    seconds = np.asarray(seconds, dtype=np.float64)
    if len(seconds) == 0:
        return []
    rng = np.random.default_rng(seed)
    order = np.argsort(seconds, kind="stable")
    share = np.cumsum(seconds[order]) / max(seconds.sum(), 1e-9)
    edges = np.searchsorted(share, np.arange(1, buckets) / buckets)
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = 0.0
    for members in np.split(order, edges):
        for i in rng.permutation(members):
            longest = max(longest, seconds[i])
            if batch and longest * (len(batch) + 1) > batch_seconds:
                batches.append(batch)
                batch, longest = [], seconds[i]
            batch.append(int(i))
    batches.append(batch)
    batches = [batches[i] for i in rng.permutation(len(batches))]
    return _even(batches, ranks)


def sorted_batches(seconds: Sequence[float] | np.ndarray, *, batch_seconds: float) -> list[list[int]]:
    """Evaluation: as `bucket_batches`, in order of duration, the longest first, without chance."""
    seconds = np.asarray(seconds, dtype=np.float64)
    batches: list[list[int]] = []
    for i in np.argsort(-seconds, kind="stable"):
        if not batches or seconds[batches[-1][0]] * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
        batches[-1].append(int(i))
    return batches


def _even(batches: list[list[int]], ranks: int) -> list[list[int]]:
    while len(batches) % ranks:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[largest]
        if len(batch) < 2:
            missing = -len(batches) % ranks
            return batches + [batches[i % len(batches)] for i in range(missing)]
        half = len(batch) // 2
        batches[largest] = batch[:half]
        batches.append(batch[half:])
    return batches
