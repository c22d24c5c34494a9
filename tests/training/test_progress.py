from __future__ import annotations

import io
import logging
import os
import signal
from types import SimpleNamespace

import pytest

from samba_asr.training.progress import Signals, TrainingProgress, log_file
from samba_asr.training.step import StepResult

RESULT = StepResult(
    {"loss": 30.0, "ctc": 20.0, "crf": 0.0, "decoder": 10.0, "cr": 0.0}, units=10, seconds=36.0, bad=0, norm=1.5
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_logged_with_means_per_unit(caplog, tmp_path):
    progress = TrainingProgress(every=2)
    with caplog.at_level(logging.INFO):
        for step in range(1, 5):
            progress.step(step, "epoch 1/2", 0.001, step / 100, RESULT)
    progress.close()
    assert len(caplog.messages) == 2
    assert "epoch 1/2 step 2 loss 3.0000 ctc 2.0000 decoder 1.0000 lr 1.00e-03 norm 1.50" in caplog.messages[0]
    assert "cr" not in caplog.messages[0]


def test_a_terminal_gets_one_line_in_place_and_the_file_the_log(monkeypatch, tmp_path):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with log_file(tmp_path / "log.txt"):
        progress = TrainingProgress(every=1)
        progress.step(1, "epoch 1/2", 0.001, 0.1, RESULT)
        progress.step(2, "epoch 1/2", 0.001, 0.2, RESULT)
        logging.getLogger("samba_asr.x").warning("careful")
        progress.close()
    shown = terminal.getvalue()
    assert "\r\033[Kepoch 1/2 step 1" in shown
    assert "\n" not in shown.replace("careful\n", "")
    log = (tmp_path / "log.txt").read_text()
    assert "INFO epoch 1/2 step 2 loss 3.0000" in log
    assert "WARNING careful" in log


def test_a_tracker_gets_the_numbers_of_the_line():
    seen = {}
    tracking = SimpleNamespace(log=lambda values, step: seen.update({step: values}))
    progress = TrainingProgress(every=2, tracking=tracking)
    for step in (1, 2, 3):
        progress.step(step, "epoch 1/2", 0.001, 0.1, RESULT)
    assert list(seen) == [2]
    assert seen[2].keys() == {f"train/{name}" for name in ("loss", "ctc", "decoder", "lr", "norm", "hours_per_hour")}
    assert seen[2]["train/loss"] == 3.0


def test_the_first_signal_is_noted_and_the_second_does_what_it_always_did():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
