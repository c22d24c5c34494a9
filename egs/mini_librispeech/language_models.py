"""Train Mamba language models side by side, for equal CPU time, and compare their perplexities with an n-gram's.

    python egs/mini_librispeech/language_models.py text.txt dev.txt --out exp/lms --minutes 45 --ngram lm.ngram

Whichever model has had least CPU time takes the next step, so a machine with other work on it favors none.  All read the same
batches in the same order, and the learning rate falls with the minutes.  The same command continues a run that was killed.
At the end each is a folder, for `samba-asr decode ... decode.lm.neural=exp/lms/experts`.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from samba_asr import config as configs
from samba_asr.config import Config
from samba_asr.data.text import TextSet
from samba_asr.decoding.ngram import END, UNKNOWN, LanguageModel, read_ngram
from samba_asr.models.decoder import BOUNDARY
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import save_lm
from samba_asr.text.lm import read_lines
from samba_asr.text.tokenizer import has_tokenizer, load_tokenizer, train_tokenizer
from samba_asr.text.units import SPACE, Tokenizer
from samba_asr.training.distributed import Ranks
from samba_asr.training.objectives import objectives
from samba_asr.training.optim import learning_rate
from samba_asr.training.step import SeededBatch, Stepper

VARIANTS = {"plain": [], "experts": ["lm.experts=8"], "memory": ["lm.memory=128"]}
SETTINGS = ["lm.layers=2", "lm.batch_units=2048", "optim.lr=3e-3", "optim.warmup=40", "data.buckets=50"]
SHARES = (0.0, 0.01, 0.02, 0.05, *(n / 10 for n in range(1, 11)))  # of the neural model in a mixture
SAVE = 600.0  # seconds between reports and saved states


class Trained:
    """One of the models, its optimizer, and the CPU time that it has had."""

    def __init__(self, name: str, config: Config, units: Tokenizer):
        self.name, self.config = name, replace(config, model=replace(config.model, vocab_size=units.vocab_size))
        self.steps, self.seconds = 0, 0.0
        torch.manual_seed(1)
        self.net = MambaLm(config.lm, units.vocab_size)
        self.stepper = Stepper(objectives.build("language_model", self.net, config), config, Ranks(torch.device("cpu")))

    def step(self, batch, done: float) -> None:
        """Take a step at `done`, 0 to 1, of the run."""
        began = time.process_time()
        self.steps += 1
        lr = learning_rate(self.config.optim, self.steps, done)
        self.stepper.step([SeededBatch(batch, self.steps)], number=self.steps, lr=lr).result()
        self.seconds += time.process_time() - began

    def state(self) -> dict:
        return {
            "net": self.net.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def restore(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seconds = state["steps"], state["seconds"]


def word_log_probs(net: MambaLm, units: Tokenizer, text: str) -> np.ndarray:
    """Return ln p (w + 1,) of each of the w words of a text, and of its end.

    Whether a word ends after a unit, the model says with the unit after it.  That probability belongs to the word that ends, and
    the next word's first unit is one of those that begin words.  So the words after a text have probabilities that add up to 1.
    """
    ids = units.encode(text)
    pieces = units.pieces(range(units.vocab_size))
    begins = torch.tensor([p.startswith(SPACE) for p in pieces])
    begins[BOUNDARY] = True  # the end of the text
    with torch.inference_mode():
        start = net.init_state(1, dtype=torch.float32)
        logits, _ = net.step(torch.tensor([[BOUNDARY, *ids]]), torch.tensor([len(ids) + 1]), start)
    log_p = logits[0].double().log_softmax(-1)  # (u + 1, v)
    ending = log_p.masked_fill(~begins, -math.inf).logsumexp(-1).numpy()
    units_log_p = log_p.gather(1, torch.tensor([*ids, BOUNDARY])[:, None])[:, 0].numpy()
    first = [i for i, token in enumerate([*ids, BOUNDARY]) if begins[token]]  # of each word, and the end
    words = [units_log_p[a:b].sum() - ending[a] * (a > 0) + ending[b] for a, b in pairwise(first)]
    return np.array([*words, units_log_p[-1] - ending[-1]])


def ngram_log_probs(lm: LanguageModel, text: str) -> tuple[np.ndarray, int]:
    """Return ln p (w + 1,) of each of the w words of a text, and of its end, and the number of unknown words."""
    context, found, unknown = lm.start, [], 0
    for word in [*text.split(), END]:
        unknown += word not in lm.ids
        log_p, (context,) = lm.score([context], [lm.ids.get(word, lm.ids.get(UNKNOWN, -1))])
        found.append(log_p[0])
    return np.array(found), unknown


def perplexity(log_p: Sequence[np.ndarray]) -> float:
    return math.exp(-np.concatenate(log_p).mean())


def mixture(neural: np.ndarray, ngram: np.ndarray, share: float) -> np.ndarray:
    """Return ln of the mixed probabilities, of both models' ln p."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(neural + np.log(share), ngram + np.log1p(-share))


def report(
    models: Sequence[Trained],
    units: Tokenizer,
    dev: Sequence[str],
    ngram: LanguageModel | None,
    out: Path | None = None,
) -> None:
    """Print the perplexities of all models on `dev`; of the n-gram; and of their best mixtures.  out: where to save folders."""
    known = [ngram_log_probs(ngram, line) for line in dev] if ngram else []
    if known:
        words = sum(len(log_p) for log_p, _ in known)
        print(f"n-gram: perplexity {perplexity([p for p, _ in known]):.1f} of {words} words and ends, "
              f"{sum(n for _, n in known)} unknown")  # fmt: skip
    for m in models:
        m.net.eval()
        own = [word_log_probs(m.net, units, line) for line in dev]
        m.net.train()
        line = f"{m.name}: {m.steps} steps, {m.seconds / 60:.2f} CPU minutes, perplexity {perplexity(own):.1f} a word"
        if known:
            both = [(a, b) for a, (b, _) in zip(own, known, strict=True)]
            mixed = {s: perplexity([mixture(a, b, s) for a, b in both]) for s in SHARES}
            best = min(mixed, key=lambda s: mixed[s])
            line += f"; mixed with the n-gram, share {best:g}: {mixed[best]:.1f}"
        print(line, flush=True)
        if out:
            m.net.eval()
            save_lm(out / m.name, m.net, m.config, units, perplexity=perplexity(own))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path, help="training text")
    parser.add_argument("dev", type=Path, help="text for the perplexity")
    parser.add_argument("--out", type=Path, required=True, help="folder of the units and of the run's state")
    parser.add_argument("--minutes", type=float, default=45.0, help="wall clock, of all models together")
    parser.add_argument("--ngram", type=Path, help="n-gram to compare with and to mix with")
    parser.add_argument("settings", nargs="*", help="such as lm.d_model=128")
    args = parser.parse_intermixed_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not has_tokenizer(args.out):
        train_tokenizer(read_lines([args.text]), "bpe", 1000, args.out, lambda words: {})
    units, dev = load_tokenizer(args.out), list(read_lines([args.dev]))
    every = {name: configs.load(overrides=[*SETTINGS, *more, *args.settings]) for name, more in VARIANTS.items()}
    text = TextSet(read_lines([args.text]), units, every["plain"])
    models = [Trained(name, config, units) for name, config in every.items()]
    elapsed, kept = 0.0, args.out / "state.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        elapsed = state["elapsed"]
        for m in models:
            m.restore(state[m.name])
    ngram = read_ngram(args.ngram) if args.ngram else None
    began = saved = time.monotonic()
    epochs = [text.epoch(1)]
    while (done := (elapsed + time.monotonic() - began) / (60 * args.minutes)) < 1:
        m = min(models, key=lambda m: m.seconds)
        epoch, batch = divmod(m.steps, len(epochs[0]))
        while len(epochs) <= epoch:
            epochs.append(text.epoch(len(epochs) + 1))
        m.step(epochs[epoch][batch % len(epochs[epoch])], done)
        if time.monotonic() - saved > SAVE:
            saved = time.monotonic()
            save(kept, elapsed + saved - began, models)
            report(models, units, dev, ngram)
    save(kept, elapsed + time.monotonic() - began, models)
    report(models, units, dev, ngram, args.out)


def save(path: Path, elapsed: float, models: Sequence[Trained]) -> None:
    torch.save({"elapsed": elapsed, **{m.name: m.state() for m in models}}, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


if __name__ == "__main__":
    main()
