"""Validation of a net: texts, WER and CTC loss of the validation utterances."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.data.dataset import AudioStore, evaluation_batches
from samba_asr.data.manifest import Utterance
from samba_asr.decoding.greedy import Greedy
from samba_asr.metrics.wer import score
from samba_asr.models.asr import AsrModel
from samba_asr.text.tokenizer import Tokenizer
from samba_asr.training.objectives.crf import CrfTerm
from samba_asr.training.objectives.mwer import Reader


@dataclass(frozen=True)
class Validation:
    """Result of a validation.  wer: percent.  loss: CTC, nats per token.  texts: by utterance id.

    crf: CTC-CRF loss, nats per token; None if not requested.
    """

    wer: float
    loss: float
    texts: dict[str, str]
    crf: float | None = None


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Compute matrix products in `dtype` within the block.  float32 changes nothing."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def greedy(log_probs: Tensor, lengths: Tensor, tokenizer: Tokenizer) -> list[str]:
    """Return the text of each row of log_probs (b, t, v) by greedy CTC search."""
    search = Greedy()
    state = search.finish(search.step(log_probs, lengths, search.init_state(len(lengths))))
    return [tokenizer.decode(row[0].tokens) for row in search.hypotheses(state)]


def validate(
    net: AsrModel,
    tokenizer: Tokenizer,
    utterances: Sequence[Utterance],
    *,
    block: int,
    batch_seconds: float,
    dtype: torch.dtype,
    crf: CrfTerm | None = None,
    read: Reader | None = None,
    store: AudioStore | None = None,
    gather: Callable[[object], list] = lambda value: [value],
    check: Callable[[], None] = lambda: None,
) -> Validation:
    """Measure WER, greedy without `read`, and losses of whole utterances, the longest first, with the net in evaluation mode.

    utterances: those of this rank.  block: encoder frames per block.  crf: also measure this CTC-CRF loss.  read: the search.
    store: reader of the audio; default: read at the model's rate, without cache.  gather: collects every rank's value.
    check: called for each batch; may raise to stop.  Unreadable utterances are logged and count as deleted.
    """
    total, rival, tokens, texts = 0.0, 0.0, 0, {}
    device, training = next(net.parameters()).device, net.training
    store = store or AudioStore(net.config.features.sample_rate, cache=False)
    net.eval()
    try:
        for batch in evaluation_batches(utterances, tokenizer, store, batch_seconds=batch_seconds):
            check()
            with torch.inference_mode(), autocast(device, dtype):
                log_probs, lengths = net.log_probs(batch.audio.to(device), batch.lengths.to(device), block=block)
            if read is None:
                found = greedy(log_probs, lengths, tokenizer)
            else:
                found = [readings[0].text for readings in read(log_probs, lengths)]
            texts.update(zip(batch.ids, found, strict=True))
            frames = log_probs.float().transpose(0, 1).cpu()  # (t, b, v)
            sizes = lengths.cpu(), batch.token_lengths
            loss = F.ctc_loss(frames, batch.tokens, *sizes, reduction="none", zero_infinity=True)
            total, tokens = total + float(loss.sum()), tokens + int(batch.token_lengths.sum())
            if crf is not None:
                on = (x.to(device) for x in (loss, log_probs.float(), lengths, batch.tokens, batch.token_lengths))
                with torch.inference_mode():
                    rival += float(crf.loss(*on).sum())
    finally:
        net.train(training)
    references = {u.id: u.text for u in utterances}
    totals, rivals, counts, all_texts, all_references = zip(
        *gather((total, rival, tokens, texts, references)), strict=True
    )
    texts, references, count = _merge(all_texts), _merge(all_references), max(sum(counts), 1)
    competing = sum(rivals) / count if crf is not None else None
    return Validation(100 * score(references, texts).wer, sum(totals) / count, texts, competing)


def _merge(parts: Iterable[dict[str, str]]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}
