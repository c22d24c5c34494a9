"""A stand-in for AsrModel and its objective, and a corpus to train it on; run as a program, it trains (and dies).

python -m tests.training.toy FOLDER MANIFEST [--die-at STEP] [--die-rank RANK] [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import nn

from samba_asr import config as configs
from samba_asr.config import Config
from samba_asr.data.manifest import Utterance, read_manifest, write_manifest
from samba_asr.text.tokenizer import CharTokenizer
from samba_asr.training import trainer
from samba_asr.training.objectives import Objective, Outcome
from samba_asr.training.step import Stepper
from samba_asr.training.tasks import SpeechTask

FRAME = 640  # samples: 40 ms
TOKENIZER = CharTokenizer(["▁", "a", "b"])


class Toy(nn.Module):
    """A classifier of frames; with dropout, and parameters used sometimes or never."""

    def __init__(self, config: Config | None = None):
        super().__init__()
        torch.manual_seed(7)
        self.config = (config or toy_config()).model
        self.inside = nn.Linear(FRAME, 16)
        self.head = nn.Linear(16, TOKENIZER.vocab_size)
        self.sometimes = nn.Parameter(torch.zeros(16))  # only by batches longer than 0.8 s
        self.never = nn.Linear(3, 3)
        self.always = False  # whether all batches use `sometimes`

    def frames(self, audio, lengths):
        t = audio.shape[1] // FRAME
        x = self.inside(audio[:, : t * FRAME].unflatten(1, (t, FRAME)))  # (b, t, 16)
        if audio.shape[1] > 12800 or self.always:
            x = x + self.sometimes
        return F.dropout(x, 0.2, self.training).tanh(), lengths // FRAME

    def log_probs(self, audio, lengths, *, block):
        x, lengths = self.frames(audio, lengths)
        return self.head(x).log_softmax(-1), lengths


class ToyObjective(Objective):
    """CTC, with masks from the generator."""

    parts = ("ctc",)
    crf = None

    def __init__(self, net: Toy):
        super().__init__(net)
        self.before = lambda batch: None  # called with each batch: a place to raise
        self.change = lambda outcome, batch: outcome  # a place to spoil losses

    def draw_block(self, rng) -> int:
        return rng.choice([-1, 4])

    def compute(self, batch, *, block, augment, generator):
        self.before(batch)
        x, lengths = self.net.frames(batch.audio, batch.lengths)
        x = x * (torch.rand(x.shape[:2], generator=generator) > 0.1).unsqueeze(-1)
        log_probs = self.net.head(x).log_softmax(-1).float()
        ctc = F.ctc_loss(log_probs.transpose(0, 1), batch.tokens, lengths, batch.token_lengths, reduction="none")
        ctc = ctc + 0.01 * block
        return self.change(Outcome(ctc, {"ctc": ctc}, batch.token_lengths), batch)


class ToyTask(SpeechTask):
    def objective(self, net):
        return ToyObjective(net)


def toy_config(*overrides: str) -> Config:
    return configs.load(
        [],
        [
            "train.epochs=2",
            "train.log_every=1",
            "train.dtype=float32",
            "train.device=cpu",
            "train.save_minutes=0",
            "data.batch_seconds=3",
            "data.buckets=2",
            "data.min_seconds=0.2",
            "optim.warmup=4",
            "optim.lr=0.01",
            *overrides,
        ],
    )


def make_corpus(folder: Path, n: int = 12, rate: int = 16000) -> list[Utterance]:
    """n noises of 0.4 to 1.2 s, with texts that mean nothing, and their manifest `corpus.jsonl`."""
    rng = np.random.default_rng(3)
    utterances = []
    for i in range(n):
        samples = rng.normal(scale=0.1, size=int(rate * rng.uniform(0.4, 1.2)))
        soundfile.write(folder / f"{i}.wav", samples, rate)
        text = "".join(rng.choice(list("ab"), size=3))
        utterances.append(Utterance(f"u{i}", str(folder / f"{i}.wav"), text, duration=len(samples) / rate))
    write_manifest(folder / "corpus.jsonl", utterances)
    return utterances


def train_toy(config: Config, folder: Path, data, valid, net: Toy, task: type[SpeechTask] = ToyTask):
    return trainer.run(config, folder, TOKENIZER, lambda config: task(config, TOKENIZER, data, valid), model=net)


def record_losses(path: Path, die_at: int = 0) -> None:
    """From now on each step appends [step, loss, units] to `path`; step `die_at` is the process's last."""
    original = Stepper.step

    def step(self, work, *, number, lr):
        pending = original(self, work, number=number, lr=lr)
        outcome = pending.result()
        with open(path, "a") as file:
            file.write(json.dumps([number, outcome.losses["loss"], outcome.units]) + "\n")
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return pending

    Stepper.step = step


def recorded(path: Path) -> dict[int, float]:
    """Step -> loss; a step that was taken twice counts as it was the last time."""
    return {step: loss for step, loss, _ in map(json.loads, path.read_text().splitlines())}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--always", action="store_true", help="all batches use `Toy.sometimes`")
    parser.add_argument("--die-rank", help="only this one dies, and only before torchrun starts it again")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args(argv)
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    rank, again = os.environ.get("RANK", "0"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    dies = args.die_rank in (None, rank) and not again
    record_losses(args.folder / f"losses-{rank}", args.die_at if dies else 0)
    data, config = read_manifest(args.manifest), toy_config(*args.overrides)
    net = Toy(config)
    net.always = args.always
    result = train_toy(config, args.folder, data, data[:5], net)
    return 128 + result.signal if result.signal else 0


if __name__ == "__main__":
    sys.exit(main())
