"""Training steps on a real GPU: the same losses as on the CPU, with kernels and copies of weights in bfloat16."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samba_asr.config import Config, LossConfig, TrainConfig
from samba_asr.models.asr import AsrModel
from samba_asr.training.distributed import Ranks
from samba_asr.training.evaluate import validate
from samba_asr.training.objectives.speech import SpeechObjective
from samba_asr.training.step import SeededBatch, Stepper
from tests.models.tiny import batch, tiny
from tests.support.work import CPU
from tests.training.toy import TOKENIZER

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-3), ("bfloat16", 0.05)])
def test_steps_on_a_gpu_are_those_of_the_cpu(dtype, error):
    model = tiny(dropout=0.0)
    model = replace(model, features=replace(model.features, mels=8))
    curves = []
    for ranks, of in ((CPU, "float32"), (Ranks(torch.device("cuda:0")), dtype)):
        torch.manual_seed(0)
        config = replace(Config(), model=model, loss=LossConfig(), train=TrainConfig(dtype=of))
        stepper = Stepper(SpeechObjective(AsrModel(model), config).to(ranks.device), config, ranks)
        work = [SeededBatch(batch(), seed=1, easy=True)]
        curves.append(torch.tensor([stepper.step(work, number=i, lr=0.003).result().losses["loss"] for i in range(30)]))
    here, there = curves
    assert here[-1] < 0.7 * here[0]
    assert (there - here).abs().max() < error * here[0]


def test_validation_on_a_gpu_is_that_of_the_cpu(corpus):
    """Its blocks are laid by lengths on the GPU."""
    torch.manual_seed(0)
    net = AsrModel(replace(tiny(dropout=0.0), vocab_size=TOKENIZER.vocab_size))
    options = {"block": 8, "batch_seconds": 10.0, "dtype": torch.float32}
    here, there = (validate(net.to(device), TOKENIZER, corpus, **options).loss for device in ("cpu", "cuda:0"))
    assert abs(here - there) < 1e-3 * here
