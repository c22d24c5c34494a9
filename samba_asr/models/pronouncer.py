"""Grapheme-to-phoneme conversion: a small Hydra network that guesses pronunciations, trained on CMUdict.

Each letter becomes `REPEAT` steps, because a letter may be two phones (X) or none (the E of MADE).  Bidirectional layers predict
the phone of each step, or a blank, by CTC (A. Graves et al., 2006).  The guess is the most probable phone of each step, without
blanks and repetitions.

    b words     l letters     t = REPEAT l steps     d d_model     v phones and the blank, 0
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samba_asr.config import HydraConfig, PronouncerConfig
from samba_asr.models import one_file
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.linear import FeedForward
from samba_asr.nn.mixers import build_mixer
from samba_asr.ops.blocks import lay_blocks
from samba_asr.text.lexicon import Lexicon, Pronunciation

LETTERS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # ids from 1 on; 0 is padding
REPEAT = 2
FILE = "pronunciation.safetensors"  # in the folder of this file
BATCH = 256  # words


class PronouncerLayer(nn.Module):
    """Hydra mixer and feed-forward, each with a residual connection."""

    def __init__(self, config: PronouncerConfig):
        super().__init__()
        mixer = HydraConfig(d_state=config.d_state, headdim=config.headdim, dt_min=0.01)
        self.norm, self.mixer = nn.LayerNorm(config.d_model), build_mixer(config.d_model, mixer)
        self.feed_forward = FeedForward(config.d_model, config.ffn_expand, config.dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, lengths: Tensor, blocks) -> Tensor:
        x = x + self.dropout(self.mixer(self.norm(x), lengths, blocks)[0])
        return x + self.feed_forward(x)


class Pronouncer(nn.Module):
    """Network from letters to phones.  phones: those of ids 1, 2, ..."""

    def __init__(self, config: PronouncerConfig, phones: Sequence[str]):
        super().__init__()
        self.config, self.phones = config, list(phones)
        self.embedding = nn.Embedding(
            REPEAT * (len(LETTERS) + 1), config.d_model
        )  # of a letter's first step, second, ...
        self.layers = nn.ModuleList(PronouncerLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.output = nn.Linear(config.d_model, len(phones) + 1)

    def log_probs(self, letters: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (b, t, v), float32, and steps (b,) of letters (b, l) with lengths (b,)."""
        steps = letters[:, :, None] * REPEAT + torch.arange(REPEAT, device=letters.device)  # (b, l, REPEAT)
        x, lengths = self.embedding(steps.flatten(1)), lengths * REPEAT  # (b, t, d)
        blocks = lay_blocks(lengths, x.shape[1], x.shape[1])
        for layer in self.layers:
            x = layer(x, lengths, blocks)
        return self.output(self.norm(x)).float().log_softmax(-1), lengths

    @torch.inference_mode()
    def pronounce(self, words: Iterable[str]) -> Lexicon:
        """Guess a pronunciation for each of `words`.  Words without a known letter, or with an empty guess, are left out."""
        words = [word for word in dict.fromkeys(words) if spelt(word)]
        found: dict[str, tuple[Pronunciation, ...]] = {}
        for i in range(0, len(words), BATCH):
            some = words[i : i + BATCH]
            letters, lengths = padded([spelt(word) for word in some])
            best = self.log_probs(letters, lengths)[0].argmax(-1).tolist()
            for word, ids, n in zip(some, best, lengths.tolist(), strict=True):
                ids = ids[: n * REPEAT]
                kept = [i for i, before in zip(ids, [0, *ids[:-1]], strict=True) if i and i != before]
                if kept:
                    found[word] = (tuple(self.phones[i - 1] for i in kept),)
        return Lexicon(found)


def spelt(word: str) -> list[int]:
    """Return the ids of the letters of a word; other characters are left out."""
    return [LETTERS.index(letter) + 1 for letter in word.upper() if letter in LETTERS]


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return ids (b, l), padded with 0, and their lengths (b,)."""
    lengths = torch.tensor([len(row) for row in rows])
    x = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.long)
    for i, row in enumerate(rows):
        x[i, : len(row)] = torch.tensor(row)
    return x, lengths


def save_pronouncer(path: Path, model: Pronouncer) -> None:
    """Write the weights in 16 bits, with sizes and phones in the metadata, to one file."""
    about = {"phones": " ".join(model.phones), **{name: str(value) for name, value in asdict(model.config).items()}}
    one_file.write(path, {name: x.detach().cpu().half() for name, x in model.state_dict().items()}, about)


@functools.cache
def load_pronouncer(path: Path | None = None) -> Pronouncer:
    """Load the shipped network, or that of a file; UserError for a missing or other file."""
    path = path or Path(__file__).with_name(FILE)
    with one_file.opened(path, "pronunciation", "samba-asr lm pronounce") as (about, weights):
        sizes: dict[str, Any] = {f.name: type(f.default)(about[f.name]) for f in fields(PronouncerConfig)}
        model = Pronouncer(PronouncerConfig(**sizes), about["phones"].split())
        model.load_state_dict(weights)
        return model.eval()
