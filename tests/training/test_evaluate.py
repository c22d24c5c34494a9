from __future__ import annotations

import logging

import pytest
import torch

from samba_asr.config import Config, HydraConfig, LossConfig, ModelConfig
from samba_asr.data.dataset import AudioStore, evaluation_batches
from samba_asr.data.manifest import Utterance
from samba_asr.models.asr import AsrModel
from samba_asr.training.evaluate import greedy, validate
from samba_asr.training.objectives.crf import trigram
from samba_asr.training.objectives.speech import SpeechObjective
from tests.training.toy import TOKENIZER, Toy


class Oracle(Toy):
    """Says `texts[i]` to the utterance whose audio has `i` in its first sample: id / 100."""

    def __init__(self, texts):
        super().__init__()
        self.texts = texts

    def log_probs(self, audio, lengths, *, block):
        assert not self.training
        b, t = audio.shape[0], 12
        scores = torch.zeros(b, t, TOKENIZER.vocab_size)
        for row, n in enumerate(lengths.tolist()):
            for frame in range(t):
                ids = TOKENIZER.encode(self.texts[n])
                here = ids[frame // 2] if frame % 2 == 0 and frame // 2 < len(ids) else 0
                scores[row, frame, here] = 9.0
        return scores.log_softmax(-1), torch.full((b,), t)


@pytest.fixture
def oracle(corpus):
    return Oracle({round(u.duration * 16000): u.text for u in corpus})


def test_texts_are_found_by_their_ids(oracle, corpus):
    result = validate(oracle, TOKENIZER, corpus, block=-1, batch_seconds=3, dtype=torch.float32)
    assert result.texts == {u.id: u.text for u in corpus}
    assert result.wer == 0


def test_validation_counts_words_and_loss(oracle, corpus):
    oracle.texts[round(corpus[0].duration * 16000)] = "a" if corpus[0].text != "a" else "b"
    oracle.train()
    result = validate(oracle, TOKENIZER, corpus, block=-1, batch_seconds=3, dtype=torch.float32)
    assert result.wer == pytest.approx(100 / len(corpus))
    assert 0 < result.loss < 5
    assert oracle.training  # put back


def test_where_texts_compete_the_loss_of_that_is_told_too(corpus):
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=16, layers=1, vocab_size=TOKENIZER.vocab_size, mixer=HydraConfig(headdim=16, d_state=8)
    )
    model = AsrModel(config)
    assert validate(model, TOKENIZER, corpus, block=-1, batch_seconds=3, dtype=torch.float32).crf is None
    table = trigram([TOKENIZER.encode(u.text) for u in corpus], TOKENIZER.vocab_size)
    objective = SpeechObjective(model, Config(model=config, loss=LossConfig(crf=1.0)), trigram=table).eval()
    options = {"block": -1, "batch_seconds": 3, "dtype": torch.float32}
    result = validate(model, TOKENIZER, corpus, crf=objective.crf, **options)
    total, tokens = 0.0, 0
    for batch in evaluation_batches(corpus, TOKENIZER, AudioStore(16000, cache=False), batch_seconds=3):
        with torch.no_grad():
            total += float(objective(batch).parts["crf"].sum())
        tokens += int(batch.token_lengths.sum())
    assert result.crf == pytest.approx(total / tokens, rel=1e-4)


def test_what_cannot_be_read_is_reported_and_counts_as_not_recognised(oracle, corpus, caplog):
    utterances = [*corpus, Utterance("gone", "/nowhere/gone.wav", "a", duration=1.0)]
    with caplog.at_level(logging.WARNING):
        result = validate(oracle, TOKENIZER, utterances, block=-1, batch_seconds=3, dtype=torch.float32)
    assert "gone" in caplog.text
    assert result.wer == pytest.approx(100 / len(utterances))
    assert "gone" not in result.texts


def test_rows_are_decoded_to_their_own_lengths():
    log_probs = torch.full((2, 3, TOKENIZER.vocab_size), -9.0)
    log_probs[:, :, 3] = 0.0
    log_probs[:, 1, 3], log_probs[:, 1, 0] = -9.0, 0.0
    assert greedy(log_probs, torch.tensor([1, 3]), TOKENIZER) == ["a", "aa"]
