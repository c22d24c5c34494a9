"""Training speed: steps of the trainer's own Stepper on its own batches, reading and augmentation included."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samba_asr import config as configs
from samba_asr.bench.measure import answer
from samba_asr.config import Config
from samba_asr.data.bucketing import derive_seed
from samba_asr.data.manifest import Utterance, read_manifest

if TYPE_CHECKING:
    from samba_asr.data.dataset import Batch, TrainingSet
    from samba_asr.training.step import Stepper
    from samba_asr.training.tasks import SpeechTask

WARM_UP = 2  # steps before the clock starts
SYNTHETIC = 48  # utterances of 2 to 16 s, about 7 minutes


def main(files: list[str], overrides: list[str], data: str | None, seconds: float) -> dict[str, Any]:
    """Train for about `seconds` after a warm-up, on a manifest or on synthetic audio, and measure the speed.

    hours_per_hour: hours of audio, after speed perturbation, in an hour of time.
    """
    config = configs.load(files, overrides)
    with tempfile.TemporaryDirectory() as folder:
        utterances = read_manifest(data) if data else synthetic(Path(folder), config.model.features.sample_rate)
        return _measure(config, utterances, Path(folder), seconds)


def synthetic(folder: Path, rate: int) -> list[Utterance]:
    """Make noise with texts of random letters at the rate of read speech: training costs as much as on real speech."""
    import soundfile

    rng = np.random.default_rng(1)
    letters = list("ETAOINSHRDLUCMWFGYPBVK")
    utterances = []
    for i in range(SYNTHETIC):
        duration = float(rng.uniform(2, 16))
        path = folder / f"{i}.wav"
        soundfile.write(path, rng.normal(scale=0.1, size=int(duration * rate)).astype(np.float32), rate)
        words = ("".join(rng.choice(letters, size=rng.integers(1, 9))) for _ in range(int(duration * 2.7)))
        utterances.append(Utterance(f"u{i}", str(path), " ".join(words), duration=duration))
    return utterances


def prepare(config: Config, utterances: list[Utterance], folder: Path) -> tuple[SpeechTask, Stepper]:
    """Make what the trainer makes of a configuration and utterances, in `folder`: the task and its steps."""
    import torch

    from samba_asr.text.tokenizer import train_tokenizer
    from samba_asr.training import distributed
    from samba_asr.training.step import Stepper
    from samba_asr.training.tasks import SpeechTask

    wanted = config.tokenizer
    size = wanted.vocab_size if wanted.kind == "bpe" else None
    tokenizer = train_tokenizer((u.text for u in utterances), wanted.kind, size, folder)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))
    task = SpeechTask(config, tokenizer, utterances, [])
    ranks = distributed.start(config.train.device)
    torch.manual_seed(config.train.seed)
    objective = task.objective(task.new_net()).to(ranks.device).train()
    return task, Stepper(objective, config, ranks)


def _measure(config: Config, utterances: list[Utterance], folder: Path, seconds: float) -> dict[str, Any]:
    import torch

    from samba_asr.training.optim import learning_rate
    from samba_asr.training.step import SeededBatch

    task, stepper = prepare(config, utterances, folder)
    audio, began, steps, pending = 0.0, time.perf_counter(), 0, None
    batches = _batches(task.data, config)
    for number in itertools.count(1):
        group = itertools.islice(batches, max(config.optim.accumulate, 1))
        work = [SeededBatch(batch, derive_seed(number, i)) for i, batch in enumerate(group)]
        before, pending = pending, stepper.step(work, number=number, lr=learning_rate(config.optim, number, 0.0))
        outcome = before.result() if before else None  # a step late, as the trainer reads it
        if number == WARM_UP + 1:  # the steps of the warm-up are done
            began = time.perf_counter()
        elif outcome and number > WARM_UP + 1:
            audio, steps = audio + outcome.seconds, steps + 1
            if time.perf_counter() - began >= seconds:
                break
    took = time.perf_counter() - began
    batches.close()
    return {
        "hours_per_hour": audio / took,
        "steps": steps,
        "audio_seconds": audio,
        "seconds": took,
        "seconds_per_step": took / steps,
        "parameters": sum(p.numel() for p in stepper.objective.parameters()),
        "batch_seconds": config.data.batch_seconds * config.optim.accumulate,
        "device": str(stepper.ranks.device),
        "dtype": str(stepper.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def _batches(data: TrainingSet, config: Config) -> Generator[Batch, None, None]:
    """Yield batches of one epoch after another."""
    from samba_asr.data.dataset import load_batches

    for number in itertools.count(1):
        epoch = data.epoch(number)
        yield from load_batches(epoch, range(len(epoch)), config.data.workers)


if __name__ == "__main__":
    answer(main)
