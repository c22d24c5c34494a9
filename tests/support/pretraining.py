"""Objectives of pretraining: their losses, the frames that they hide, and what is asked of each of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.models.tiny import batch


def losses(model, speech, seed: int = 1) -> Tensor:
    """Return the loss of each utterance (b,), with blocks of two frames."""
    return model(speech, block=2, generator=torch.Generator().manual_seed(seed)).loss


def hide(model, monkeypatch: pytest.MonkeyPatch, *rows) -> None:
    """Hide these frames of each row, whatever the generator says."""
    monkeypatch.setattr(
        model, "hidden", lambda lengths, generator: torch.tensor(rows, dtype=torch.bool)[:, : int(lengths.max())]
    )


def remaining_loss(model) -> float:
    """Train on one batch, and return the share of the first loss that remains."""
    speech, found = batch(), []
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        loss = losses(model, speech).sum()
        found.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found[-1] / found[0]


def with_and_without_nan_in_the_padding(model) -> tuple[list[Tensor], list[Tensor]]:
    """Return the losses and all gradients, of plain padding and of NaN there."""
    clean, found = batch(), []
    behind = torch.arange(clean.audio.shape[1]) >= clean.lengths[:, None]
    for audio in (clean.audio, clean.audio.masked_fill(behind, float("nan"))):
        model.zero_grad()
        loss = losses(model, clean._replace(audio=audio))
        loss.sum().backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    return found[0], found[1]
