"""A model over a list of utterances: log-probabilities, texts, WER and CTC loss.  Nothing here augments or trains.

b utterances, t encoder frames, v ids
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samba_asr.data.dataset import AudioStore, Batch, evaluation_batches
from samba_asr.data.manifest import Utterance
from samba_asr.decoding.base import Decoder
from samba_asr.decoding.greedy import Greedy
from samba_asr.metrics.wer import score
from samba_asr.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Validation:
    """wer in percent, loss: CTC's, natural logarithm per token; texts by utterance id."""

    wer: float
    loss: float
    texts: dict[str, str]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Matrix products in `dtype`; float32 leaves everything alone."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def log_prob_batches(
    model: nn.Module,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    *,
    block: int,
    batch_seconds: float,
    dtype: torch.dtype = torch.float32,
    store: AudioStore | None = None,
) -> Generator[tuple[Batch, Tensor, Tensor], None, None]:
    """(batch, log_probs (b, t, v) float32 on the model's device, lengths (b,)), the longest utterances first.

    `store` reads the audio; without one, it is read at the model's rate and not kept.  The model is in evaluation mode
    until the iterator ends.
    """
    device = next(model.parameters()).device
    store = store or AudioStore(model.config.features.sample_rate, cache=False)
    training = model.training
    model.eval()
    try:
        for batch in evaluation_batches(utterances, tokenizer, store, batch_seconds=batch_seconds):
            if not batch.ids:
                continue
            with torch.inference_mode(), autocast(device, dtype):
                log_probs, lengths = model.log_probs(batch.audio.to(device), batch.lengths.to(device), block=block)
            yield batch, log_probs.float(), lengths
    finally:
        model.train(training)


def transcribe_batches(
    model: nn.Module,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    *,
    block: int,
    batch_seconds: float,
    dtype: torch.dtype = torch.float32,
    search: Decoder | None = None,
) -> dict[str, str]:
    """The text of every utterance by id, by CTC with `search` (greedy if None), whole utterances at once.

    Those that cannot be read are reported in the log and have no text.
    """
    batches = log_prob_batches(model, tokenizer, utterances, block=block, batch_seconds=batch_seconds, dtype=dtype)
    texts = {}
    for batch, log_probs, lengths in batches:
        texts.update(zip(batch.ids, decode(log_probs, lengths, tokenizer, search), strict=True))
    return {u.id: texts[u.id] for u in utterances if u.id in texts}


def decode(log_probs: Tensor, lengths: Tensor, tokenizer: Tokenizer, search: Decoder | None = None) -> list[str]:
    """The best text of each row of log_probs (b, t, v)."""
    search = search or Greedy()
    state = search.finish(search.step(log_probs, lengths, search.init_state(len(lengths))))
    return [tokenizer.decode(row[0].tokens) for row in search.hypotheses(state)]


def validate(
    model: nn.Module,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    *,
    block: int,
    batch_seconds: float,
    dtype: torch.dtype,
    store: AudioStore | None = None,
    gather: Callable[[object], list] = lambda value: [value],
    check: Callable[[], None] = lambda: None,
) -> Validation:
    """Greedy WER and CTC loss.  `utterances` are this rank's; `gather` collects every rank's value; `check` is called
    after each batch and may raise to give up."""
    total, tokens, texts = 0.0, 0, {}
    batches = log_prob_batches(
        model, tokenizer, utterances, block=block, batch_seconds=batch_seconds, dtype=dtype, store=store
    )
    with contextlib.closing(batches):
        for batch, log_probs, lengths in batches:
            check()
            texts.update(zip(batch.ids, decode(log_probs, lengths, tokenizer), strict=True))
            frames = log_probs.transpose(0, 1).cpu()  # (t, b, v)
            sizes = lengths.cpu(), batch.token_lengths
            loss = F.ctc_loss(frames, batch.tokens, *sizes, reduction="sum", zero_infinity=True)
            total, tokens = total + float(loss), tokens + int(batch.token_lengths.sum())
    references = {u.id: u.text for u in utterances}
    totals, counts, all_texts, all_references = zip(*gather((total, tokens, texts, references)), strict=True)
    texts, references = _merge(all_texts), _merge(all_references)
    return Validation(100 * score(references, texts).wer, sum(totals) / max(sum(counts), 1), texts)


def _merge(parts: Iterable[dict[str, str]]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}
