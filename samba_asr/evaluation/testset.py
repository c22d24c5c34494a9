"""Loops over a test set: whole utterances in batches, or one after another.

Both log utterances that cannot be read, and skip them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from samba_asr.audio.read import AudioError
from samba_asr.data.dataset import AudioStore, Batch, evaluation_batches
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.decoding.base import Hypothesis
from samba_asr.decoding.lattice import Lattice
from samba_asr.errors import UserError
from samba_asr.recognizer import Recognizer
from samba_asr.result import Result
from samba_asr.runtime.base import AcousticRuntime, Frames, Latency
from samba_asr.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def read_testset(manifest: Path) -> list[Utterance]:
    """Read the utterances of a manifest; UserError if there are none, or two with one id."""
    utterances = read_manifest(manifest)
    if not utterances:
        raise UserError(f"{manifest} is empty: there is nothing to recognize")
    name, n = Counter(u.id for u in utterances).most_common(1)[0]
    if n > 1:
        raise UserError(f"{manifest}: the id {name!r} occurs {n} times; ids are unique in a manifest")
    return utterances


def frames(
    runtime: AcousticRuntime,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    latency: Latency,
    *,
    batch_seconds: float,
) -> Iterator[tuple[Batch, Frames]]:
    """Yield batches of whole utterances, the longest first, each with its frames.

    batch_seconds: seconds of padded audio in a batch.
    """
    store = AudioStore(runtime.rate, cache=False)
    for batch in evaluation_batches(utterances, tokenizer, store, batch_seconds=batch_seconds):
        yield batch, runtime.forward(batch.audio, batch.lengths, latency)


def hypotheses(recognizer: Recognizer, found: Frames, nbest: int = 1) -> list[list[Hypothesis]]:
    """Search whole utterances; return the n-best hypotheses of each row, best first, by both passes."""
    return with_lattices(recognizer, found, nbest, lattices=False)[0]


@torch.inference_mode()
def with_lattices(
    recognizer: Recognizer, found: Frames, nbest: int = 1, *, lattices: bool = True
) -> tuple[list[list[Hypothesis]], list[Lattice | None]]:
    """Return `hypotheses`, and the word lattice of each row, times in frames (None: not asked for, or the search keeps none)."""
    search = recognizer.segmenter.search
    rows = range(len(found.lengths))
    state = search.finish(search.step(found, search.init_state(len(rows))))
    graphs = [search.lattice(search.take(state, [row])) if lattices else None for row in rows]
    return search.hypotheses(state, nbest), graphs


def samples(utterances: Iterable[Utterance], rate: int) -> Iterator[tuple[Utterance, np.ndarray]]:
    """Yield utterances in their order, each with its audio: float32 (s,) of `rate` samples a second."""
    store = AudioStore(rate, cache=False)
    for utterance in utterances:
        try:
            audio = store.load(utterance)
        except AudioError as error:
            logger.warning("%s is left out: %s", utterance.id, error)
            continue
        yield utterance, audio


def recognized(
    recognizer: Recognizer, utterances: Iterable[Utterance], latency_ms: float | None = None
) -> Iterator[tuple[Utterance, Result]]:
    """Yield utterances in their order, each with the result of a session: segments, words, confidences."""
    for utterance, audio in samples(utterances, recognizer.rate):
        yield utterance, recognizer.recognize(audio, latency_ms=latency_ms)
