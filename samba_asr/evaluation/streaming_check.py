"""Check of the streaming contract: chunks of random sizes must give the texts of whole utterances.

If texts differ in float32 but not in float64, their scores are almost equal and rounding decides.  That is a tie, not a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samba_asr.data.bucketing import derive_seed
from samba_asr.data.dataset import Batch
from samba_asr.decoding.base import text_of
from samba_asr.evaluation.testset import hypotheses
from samba_asr.recognizer import Recognizer
from samba_asr.session import Final, Session
from samba_asr.steps import advance

LONGEST_CHUNK = 128  # encoder frames: chunks have 1 .. this, uniform in log size


@dataclass(frozen=True)
class ChunkDifference:
    """An utterance whose text from chunks differs from that of the whole utterance.

    tie: whether the texts are equal in float64.
    """

    id: str
    whole: str
    chunks: str
    tie: bool


def differences(recognizer: Recognizer, batch: Batch, texts: Sequence[str]) -> list[ChunkDifference]:
    """Return the utterances of a batch whose texts from chunks differ from `texts`, those of whole utterances."""
    recognizer = recognizer.without_endpoints()
    return [
        ChunkDifference(name, text, other, equal_in_float64(recognizer, batch.rows(row, row + 1)))
        for row, (name, text, other) in enumerate(zip(batch.ids, texts, in_chunks(recognizer, batch), strict=True))
        if text != other
    ]


def in_chunks(recognizer: Recognizer, batch: Batch) -> list[str]:
    """Recognize a batch as live sessions in parallel, with chunks of random sizes, each seeded by its id.

    recognizer: without endpoints.  There is no gate (VAD) either, because whole utterances have none.
    """
    stride, latency = recognizer.runtime.stride, recognizer.latency(None)
    draws = [np.random.default_rng(derive_seed("chunks", name)) for name in batch.ids]
    again = recognizer.final_latency() != latency
    sessions = [Session(recognizer, recognizer.rate, latency, partials=False, again=again) for _ in batch.ids]
    # Samples that do not fill a frame are dropped, as for whole utterances.
    waiting = [x[: n // stride * stride].numpy() for x, n in zip(batch.audio, batch.lengths.tolist(), strict=True)]
    texts: list[list[str]] = [[] for _ in sessions]
    while not all(session.over for session in sessions):
        for i, (session, rng) in enumerate(zip(sessions, draws, strict=True)):
            n = int(LONGEST_CHUNK ** rng.random()) * stride
            session.feed(waiting[i][:n]) if len(waiting[i]) else session.end()
            waiting[i] = waiting[i][n:]
        advance(recognizer, sessions)
        for some, session in zip(texts, sessions, strict=True):
            some += [event.segment.text for event in session.events() if isinstance(event, Final)]
    return [" ".join(some) for some in texts]


def equal_in_float64(recognizer: Recognizer, batch: Batch) -> bool:
    """Return whether whole utterances and chunks give the same texts in float64."""
    exact = recognizer.in_float64()
    found = hypotheses(exact, exact.runtime.forward(batch.audio, batch.lengths, exact.final_latency()))
    return [text_of(some[0], exact.tokenizer) for some in found] == in_chunks(exact, batch)
