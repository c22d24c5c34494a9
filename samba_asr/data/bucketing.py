"""Assignment of utterances to batches: similar durations, reshuffled every epoch, an equal number per rank.

All functions are pure, so a killed run resumes from (seed, epoch, batch) alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Derive a seed in [0, 2**63) from integers and strings, the same in every process and on every machine.

    Each random choice in training is seeded by what it is for (run, epoch, utterance or batch), never by earlier draws.
    So workers, ranks and resumed runs agree, and no random state has to be saved.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def choose_speed(speeds: Sequence[float], *, seed: int, epoch: int, utterance: str) -> float:
    """Return the speed factor of one utterance in one epoch."""
    return speeds[derive_seed("speed", seed, epoch, utterance) % len(speeds)]


def epoch_counts(weights: Sequence[float] | np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return how often epoch `epoch` contains each utterance: (n,) integers, for weights (n,) of at least 0.

    Each count is floor(weight) or ceil(weight).  Over any number of successive epochs, the counts of an utterance add up to
    its summed weights within 1.  The seed determines in which epochs an utterance has the higher count.
    """
    weights = np.asarray(weights, dtype=np.float64)
    n = len(weights)
    turns = (np.random.default_rng(seed).permutation(n) + 0.5) / max(n, 1)  # (n,) in (0, 1)
    return (np.floor(weights * epoch + turns) - np.floor(weights * (epoch - 1) + turns)).astype(int)


def bucket_batches(
    seconds: Sequence[float] | np.ndarray, *, batch_seconds: float, buckets: int, seed: int, ranks: int = 1
) -> list[list[int]]:
    """Return the batches of one epoch, with every index of `seconds` (n,) in exactly one batch.

    The longest utterance of a batch times the batch size is at most `batch_seconds`, unless the batch is one utterance.
    Utterances are sorted into `buckets` of about equal total duration, shuffled inside each, and packed in that order (a batch
    may straddle two buckets).  Then the batches are shuffled.

    The number of batches is a multiple of `ranks`; rank r takes batches[r::ranks].  For that, the largest batches are split in
    two.  Only if none can be split (fewer utterances than ranks, or one per batch), some batches come twice.
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
    """Return batches for evaluation: limited as in `bucket_batches`, in order of duration, the longest first, not random."""
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
