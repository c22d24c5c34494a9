"""Small Mamba language models."""

from __future__ import annotations

import torch

from samba_asr.config import LmConfig
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import LoadedLm
from samba_asr.text.units import Tokenizer


def random_lm(config: LmConfig, tokenizer: Tokenizer) -> LoadedLm:
    """Make a language model whose probabilities depend on all of a text, in float64."""
    torch.manual_seed(3)
    model = MambaLm(config, tokenizer.vocab_size).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))  # what is zero at the start, too
    return LoadedLm(model, tokenizer)
