"""The training task of punctuation and case: windows of books that begin and end anywhere, as segments of speech do.

The pauses after words, which books do not have, are drawn from what was measured on speech for each mark (`QUANTILES`).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from samba_asr.config import Config
from samba_asr.data.bucketing import derive_seed
from samba_asr.data.dataset import Batch
from samba_asr.errors import UserError
from samba_asr.metrics.punctuation import MarkCounts
from samba_asr.models.punctuator import Punctuator, probabilities, save_punctuator
from samba_asr.text.written.marks import CASES, ENDS, MARKS, Run, labelled
from samba_asr.text.written.vocabulary import FEATURES, Vocabulary, pause_classes
from samba_asr.training import checkpoint
from samba_asr.training.objectives import Objective
from samba_asr.training.objectives.punctuation import PunctuationObjective, class_of
from samba_asr.training.score import Score
from samba_asr.training.tasks import Validated

logger = logging.getLogger(__name__)

VALID_WINDOWS = 512
CONTEXTS = 1500  # frequent words that the vectors of all words distinguish around them
LISTED_COUNT = 3  # times that a spelling such as McDonald must occur to be listed

_SENTENCE = (0.08, 0.2, 0.3, 0.4, 0.48, 0.56, 0.64, 0.72, 0.84, 1.0, 1.5)
_CLAUSE = (0.04, 0.28, 0.36, 0.44, 0.48, 0.52, 0.56, 0.6, 0.66, 0.72, 0.8)
QUANTILES = {  # seconds: deciles 0, 0.1, ... 1 of the pauses after words with each mark
    "": (0.0, 0.0, 0.0, 0.0, 0.04, 0.04, 0.04, 0.04, 0.08, 0.12, 0.68),
    ",": (0.0, 0.04, 0.12, 0.28, 0.36, 0.4, 0.4, 0.44, 0.48, 0.52, 0.6),
    ".": _SENTENCE,
    "?": _SENTENCE,
    "!": _SENTENCE,
    ";": _CLAUSE,
    ":": _CLAUSE,
    "—": (0.0, 0.04, 0.12, 0.2, 0.28, 0.36, 0.4, 0.44, 0.5, 0.56, 0.8),
}
"""Pauses for each mark.  None and comma: between words that `english` recognized in LJSpeech, 3,300 words of one reader; other
marks are rare inside its clips (24 words), so their deciles are those few and a guess: longer than a comma's."""


class PunctuationSet:
    """Runs of words with their cases and marks, as arrays, and windows of them as batches."""

    def __init__(self, runs: Iterable[Run], config: Config, vocabulary: Vocabulary | None = None):
        """vocabulary: default, one of the frequent words of these runs.  UserError for a text without words, case or marks."""
        self.config, self.left_out = config, Counter[str]()
        settings = config.punctuation
        types: dict[str, int] = {}
        counts, spellings = Counter[str](), Counter[str]()
        ids, tokens, ends = [], [], []
        for run in runs:
            counts.update(run.words)
            spellings.update(run.listed)
            ids += [types.setdefault(word, len(types)) for word in run.words]
            sentence = True  # begins here, or unknown: at the start of a run
            for case, mark in zip(run.cases, run.marks, strict=True):
                tokens.append(class_of(len(CASES) if sentence else case, mark))
                sentence = mark in ENDS
            ends.append(len(ids))
        if not ids:
            raise UserError("the text for punctuation is empty")
        self.ids, self.tokens = np.array(ids, dtype=np.int32), np.array(tokens, dtype=np.int64)
        if not (self.tokens % len(MARKS)).any() or not np.isin(self.tokens // len(MARKS), (1, 2, 3)).any():
            raise UserError(
                "the text for punctuation has no marks, or no capitals inside sentences: give text as printed"
            )
        self.starts = np.array([0, *ends[:-1]])
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[: settings.words]
        self.vocabulary = vocabulary or Vocabulary(frequent, settings.hashes)
        self.listed = {}
        for spelling, n in sorted(spellings.items(), key=lambda item: item[1]):
            if n >= LISTED_COUNT:
                self.listed[spelling.lower()] = spelling  # the most frequent spelling of a word comes last
        self._features = self.vocabulary.features(types)  # (types, f)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> int:
        return derive_seed(len(self.ids), zlib.crc32(self.ids.tobytes()), zlib.crc32(self.tokens.tobytes()))

    def epoch(self, epoch: int, *, ranks: int = 1) -> PunctuationEpoch:
        """Return `windows` windows.  Over successive epochs they cover the text, then again, shifted."""
        settings = self.config.punctuation
        t, each = settings.window, max(int(settings.batch_words // settings.window), 1)
        per_turn = max(len(self) // t, 1)
        first = (epoch - 1) * settings.windows
        begins = []
        for turn in range(first // per_turn, (first + settings.windows - 1) // per_turn + 1):
            rng = np.random.default_rng(derive_seed("windows", self.config.train.seed, turn))
            shift = int(rng.integers(t)) if len(self) >= 2 * t else 0
            order = rng.permutation(per_turn)
            some = order[max(first - turn * per_turn, 0) : first + settings.windows - turn * per_turn]
            begins.append(np.minimum(some * t + shift, max(len(self) - t, 0)))
        begins = np.concatenate(begins)
        count = -(-len(begins) // (each * ranks)) * ranks
        return PunctuationEpoch(self, [part.tolist() for part in np.array_split(begins, count)], epoch)

    def batch(self, begins: Sequence[int], rng: np.random.Generator | None) -> Batch:
        """Return windows that begin at these words.  A window ends with its run.  rng: for the pauses; None: no pauses."""
        t = self.config.punctuation.window
        ends = self.starts[np.minimum(np.searchsorted(self.starts, begins, side="right"), len(self.starts) - 1)]
        ends = np.where(ends > np.array(begins), ends, len(self))
        lengths = np.minimum(ends - begins, t)
        x = np.zeros((len(begins), t, FEATURES + 1), dtype=np.int64)
        tokens = np.zeros((len(begins), t), dtype=np.int64)
        for row, (begin, n) in enumerate(zip(begins, lengths, strict=True)):
            part = slice(begin, begin + n)
            x[row, :n, :FEATURES], tokens[row, :n] = self._features[self.ids[part]], self.tokens[part]
            if rng is not None and rng.random() < self.config.punctuation.pauses:
                x[row, :n, FEATURES] = pause_classes(draw_pauses(tokens[row, :n] % len(MARKS), rng))
        lengths = torch.from_numpy(lengths.astype(np.int64))
        return Batch(torch.from_numpy(x), lengths, torch.from_numpy(tokens), lengths, [f"word {i}" for i in begins])

    def vectors(self, d: int) -> torch.Tensor:
        """Return (words, d) vectors of the words of the vocabulary: principal components of what stands around each.

        Square roots of the relative frequencies of the two words before and after, of the mark before and after, and of the
        case (Hellinger PCA: R. Lebret and R. Collobert, 2014).  They spare the network to learn from few words what kind of
        word each is.
        """
        n = len(self.vocabulary.words)
        rows = self._features[self.ids, 0]  # 0: not in the vocabulary
        parts = []
        for offset in (-2, -1, 1, 2):
            parts.append((np.minimum(rows, CONTEXTS), offset, CONTEXTS + 1, 1.0))
        marks, cases = self.tokens % len(MARKS), self.tokens // len(MARKS)
        parts += [(marks, 0, len(MARKS), 2.0), (marks, -1, len(MARKS), 2.0), (cases, 0, len(CASES) + 1, 2.0)]
        blocks = []
        for context, offset, size, weight in parts:
            shifted = np.roll(context, -offset)
            counts = np.bincount(rows * size + shifted, minlength=(n + 1) * size).reshape(n + 1, size)[1:]
            share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            blocks.append(torch.from_numpy(weight * np.sqrt(share)).float())
        x = torch.cat(blocks, 1)
        x -= x.mean(0)
        d = min(d, *x.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.train.seed)
            u, s, _ = torch.svd_lowrank(x, q=d, niter=3)
        found = u * s.sqrt()
        return found * (0.3 / found.std())


class PunctuationEpoch:
    """Batches of one epoch.  `epoch[k]` is batch k of all ranks' batches."""

    def __init__(self, data: PunctuationSet, batches: list[list[int]], epoch: int):
        self.data, self.batches, self.epoch = data, batches, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, k: int) -> Batch:
        seed = derive_seed("pauses", self.data.config.train.seed, self.epoch, k)
        return self.data.batch(self.batches[k], np.random.default_rng(seed))


def draw_pauses(marks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the pauses (t,) in seconds after words with these marks (t,).  Each call has a reader of its own, slower or faster."""
    reader = np.exp(0.35 * rng.standard_normal())
    at = rng.random(len(marks)) * 10
    low = np.minimum(at.astype(int), 9)
    table = np.array([QUANTILES[mark] for mark in MARKS])  # (marks, 11)
    below, above = table[marks, low], table[marks, low + 1]
    return reader * (below + (at - low) * (above - below))


class PunctuationTask:
    """Task of books.  Score: nats a word on the held-out text, with pauses and without, in segments and whole."""

    def __init__(self, config: Config, train: Iterable[str], valid: Iterable[str], init: Punctuator | None = None):
        """train, valid: paragraphs.  init: network to go on from, of the sizes of `config` (`sizes_of`); it is copied."""
        self.config, self.init = config, init
        self.data = PunctuationSet(labelled(train), config, init.vocabulary if init else None)
        self.valid = PunctuationSet(labelled(valid), config, self.data.vocabulary)

    def describe(self) -> str:
        return f"{len(self.data) / 1e6:.2f} M words to train on, {len(self.valid)} to validate on"

    def new_net(self) -> Punctuator:
        if self.init is not None:
            return copy.deepcopy(self.init)
        net = Punctuator(self.config.punctuation, self.data.vocabulary.words, self.data.listed)
        vectors = self.data.vectors(self.config.punctuation.d_embedding)
        with torch.no_grad():
            net.embedding.weight[1 : 1 + len(vectors), : vectors.shape[1]] = vectors
        return net

    def objective(self, net: nn.Module) -> Objective:
        return PunctuationObjective(net)

    def begin(self, objective: Objective, device: torch.device, new: bool) -> None:
        pass

    def validate(self, objective, ranks, dtype, check, where):
        began, training = time.monotonic(), objective.training
        objective.eval()
        settings = self.config.punctuation
        t, each = settings.window, max(int(settings.batch_words // settings.window), 1)
        begins = np.linspace(0, max(len(self.valid) - t, 0), VALID_WINDOWS).astype(int)
        sums, words = Counter[str](), 0.0
        rng = np.random.default_rng(0)
        try:
            for i in range(0, len(begins), each):
                check()
                for pauses in (rng, None):
                    batch = self.valid.batch(begins[i : i + each].tolist(), pauses).to(ranks.device)
                    with torch.inference_mode():
                        outcome = objective(batch, block=settings.blocks[-1] if pauses is None else -1)
                    sums.update({name: float(x.sum()) for name, x in [*outcome.parts.items(), ("loss", outcome.loss)]})
                    words += float(outcome.units.sum())
        finally:
            objective.train(training)
        means = {name: x / max(words, 1) for name, x in sums.items()}
        told = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        logger.info("%s: nats a word: %s (%.0f s)", where, told, time.monotonic() - began)
        return Validated(Score("loss", means["loss"], "nats a word"), means)


def sizes_of(config: Config, init: Punctuator) -> Config:
    """Return a configuration with the sizes of a network's weights."""
    names = ("words", "hashes", "d_embedding", "layers", "d_model", "d_state", "headdim", "ffn_expand")
    sizes = {name: getattr(init.config, name) for name in names}
    return dataclasses.replace(config, punctuation=dataclasses.replace(config.punctuation, **sizes))


def finish(config: Config, task: PunctuationTask, folder: Path, out: Path) -> str:
    """Write the network of the best checkpoint in `folder` to `out`; return its scores on the validation text, in a line.

    The biases of the marks are chosen on that text for the best F1 (`choose_bias`), so its scores are a little too good.
    """
    listed = task.init.listed if task.init else task.data.listed
    net = Punctuator(config.punctuation, task.data.vocabulary.words, listed)
    net.load_state_dict(checkpoint.average(checkpoint.choose(folder, best=1, last=0)))
    cases, marks, tokens = predict(net.eval(), task.valid, windows=4 * VALID_WINDOWS)
    net.bias = choose_bias(marks, tokens % len(MARKS))
    save_punctuator(out, net)
    counts = count(cases, marks + np.array(net.bias, dtype=np.float32), tokens)
    names = {"full stop": ".", "comma": ",", "question mark": "?"}
    scores = ", ".join(f"{name} {counts.f1(MARKS.index(mark)):.3f}" for name, mark in names.items())
    return f"{len(tokens)} words, without pauses: F1 of {scores}; case {counts.case_accuracy:.4f}"


def predict(net: Punctuator, data: PunctuationSet, windows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log-probabilities of cases (n, c) and marks (n, m), and the tokens (n,), of windows evenly over the text."""
    each = max(int(net.config.batch_words // net.config.window), 1)
    begins = np.unique(np.linspace(0, max(len(data) - net.config.window, 0), windows).astype(int))
    found = []
    for i in range(0, len(begins), each):
        batch = data.batch(begins[i : i + each].tolist(), None)
        with torch.inference_mode():
            cases, marks = probabilities(net.logits(batch.audio, batch.lengths))
        valid = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
        found.append((cases[valid].numpy(), marks[valid].numpy(), batch.tokens[valid].numpy()))
    cases, marks, tokens = map(np.concatenate, zip(*found, strict=True))
    return cases, marks, tokens


def count(cases: np.ndarray, marks: np.ndarray, tokens: np.ndarray) -> MarkCounts:
    """Count what log-probabilities of cases (n, c) and marks (n, m) get right.  Cases after a sentence are left out."""
    case = tokens // len(MARKS)
    inside = case < len(CASES)
    return MarkCounts.of(
        tokens % len(MARKS), marks.argmax(1), case[inside], cases[inside].argmax(1), classes=len(MARKS)
    )


def choose_bias(marks: np.ndarray, wanted: np.ndarray) -> tuple[float, ...]:
    """Return nats to add to the log-probabilities of marks (n, m), so that the F1s are high.  wanted: marks (n,).

    One mark after the other, twice.  The aim is the sum of the F1s of comma, full stop and question mark, with a share of
    the others'.
    """
    share = np.array([0.0, 1.0, 1.0, 1.0, 0.3, 0.2, 0.2, 0.2])
    total = np.bincount(wanted, minlength=len(MARKS))
    bias = np.zeros(len(MARKS), dtype=np.float32)

    def value(bias: np.ndarray) -> float:
        chosen = (marks + bias).argmax(1)
        right = np.bincount(wanted[chosen == wanted], minlength=len(MARKS))
        f1 = 2 * right / np.maximum(total + np.bincount(chosen, minlength=len(MARKS)), 1)
        return float((share * f1).sum())

    for _ in range(2):
        for mark in range(1, len(MARKS)):
            steps = np.arange(-0.5, 1.75, 0.25) if total[mark] else np.zeros(1)
            tried = [np.where(np.arange(len(MARKS)) == mark, step, bias).astype(np.float32) for step in steps]
            bias = max(tried, key=value)
    return tuple(float(x) for x in bias)
