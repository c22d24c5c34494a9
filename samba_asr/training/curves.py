"""Learning curves of a run, from its log.txt: losses and scores of training and validation by step.

A killed and resumed run logs some steps twice: the last line counts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from samba_asr.errors import UserError

_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan|inf)"
_STEP = re.compile(r"epoch \d+(?:/\d+)? step (\d+)(:?) (.*)")
_LOSS = re.compile(rf"(\w+) {_NUMBER}(?= |$)")
_AFTER = ("lr", "norm", "audio")  # fields after the losses in a step line
_VALIDATION = (  # as logged by the tasks (samba_asr.training.tasks): name with unit, pattern
    ("CTC-CRF loss, nats a token", re.compile(rf"CTC-CRF loss {_NUMBER}")),
    ("WER, %", re.compile(rf"validation WER {_NUMBER} %")),
    ("CTC loss, nats a token", re.compile(rf"CTC loss {_NUMBER} a token")),
    ("perplexity a word", re.compile(rf"perplexity {_NUMBER} a word")),
    ("loss, nats a unit", re.compile(rf"{_NUMBER} nats a unit")),
    ("hidden frames not guessed, %", re.compile(rf"{_NUMBER} % of the hidden frames not guessed")),
    ("mean squared error", re.compile(rf"mean squared error {_NUMBER}")),
    ("mean absolute error", re.compile(rf"mean absolute error {_NUMBER}")),
    ("loss, nats a frame", re.compile(rf"{_NUMBER} nats a frame")),
)

Curve = dict[int, float]  # by step


class Curves(NamedTuple):
    """Curves of a run, by name."""

    training: dict[str, Curve]  # losses; `loss` is the weighted sum; each the mean since the previous line
    validation: dict[str, Curve]  # the metric first

    @property
    def steps(self) -> int:
        return max(
            (step for curve in (*self.training.values(), *self.validation.values()) for step in curve), default=0
        )


def read_curves(folder: Path) -> Curves:
    """Read the curves of the run in `folder`; UserError without a log, or without a step in it."""
    try:
        lines = (Path(folder) / "log.txt").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{folder}: no log.txt of a training run can be read here ({error.strerror})") from None
    curves = Curves({}, {})
    for line in lines:
        if not (found := _STEP.search(line)):
            continue
        step, rest = int(found[1]), found[3]
        if found[2]:  # a colon: validation
            for name, pattern in _VALIDATION:
                if value := pattern.search(rest):
                    curves.validation.setdefault(name, {})[step] = float(value[1])
            continue
        for name, value in _LOSS.findall(rest):
            if name in _AFTER:
                break
            curves.training.setdefault(name, {})[step] = float(value)
    if not curves.steps:
        raise UserError(f"{folder}/log.txt: no step was logged yet: train.log_every sets how often steps are logged")
    return curves
