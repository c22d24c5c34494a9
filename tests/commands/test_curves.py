"""`samba-asr curves`: what a run logged becomes a picture."""

from __future__ import annotations

import argparse

import pytest

from samba_asr.commands import curves
from samba_asr.errors import UserError
from samba_asr.training.curves import read_curves

LOG = """\
2026-11-23 23:00:00,000 INFO 12 utterances (0.00 h) to train on; cpu
2026-11-23 23:00:01,000 INFO epoch 1/100 step 20 loss 1.5000 ctc 1.2 crf 0.3 lr 5.00e-05 norm 1.42 audio 28 s, 36 h/h, left 0:15
2026-11-23 23:00:02,000 INFO epoch 1/100 step 40 loss nan ctc nan lr 1.00e-04 norm 2.20 audio 23 s, 41 h/h, left ?
2026-11-23 23:00:03,000 WARNING epoch 1/100 step 41 is not taken
2026-11-23 23:00:04,000 INFO hyp u1: step 7 loss 3.0
2026-11-23 23:00:05,000 INFO epoch 1 step 41: validation WER 50.25 %, CTC loss 0.7255 a token (8 s)
2026-11-23 23:01:00,000 INFO resuming at epoch 1
2026-11-23 23:02:00,000 INFO epoch 1/100 step 40 loss 1.2000 ctc 1.2 lr 1.00e-04 norm 2.20 audio 23 s, 41 h/h, left ?
2026-11-23 23:02:05,000 INFO epoch 2 step 82: validation WER 40.00 %, CTC loss 0.6 a token (8 s)
"""


def call(*words) -> int:
    parser = argparse.ArgumentParser()
    curves.add_parser(parser.add_subparsers())
    args = parser.parse_args(["curves", *map(str, words)])
    return args.run(args)


@pytest.fixture
def exp(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp/log.txt").write_text(LOG)
    return tmp_path / "exp"


def test_a_run_too_short_for_a_loss_shows_its_validation(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "log.txt").write_text(
        "\n".join(line for line in LOG.splitlines() if " loss 1" not in line and "nan" not in line)
    )
    assert call(tmp_path, "--out", tmp_path / "c.png") == 0
    assert "no loss is logged yet: a run logs one every train.log_every=20 steps" in capsys.readouterr().out
    assert (tmp_path / "c.png").stat().st_size > 1000
    with pytest.raises(UserError, match=r"no loss is logged yet"):
        call(tmp_path, "--losses", "ctc", "--out", tmp_path / "c.png")


# That this is what runs log is seen in test_train, test_pretrain and test_lm.
def test_a_log_holds_curves_and_the_last_word_counts(exp):
    training, validation = read_curves(exp)
    assert training == {"loss": {20: 1.5, 40: 1.2}, "ctc": {20: 1.2, 40: 1.2}, "crf": {20: 0.3}}
    assert validation == {"WER, %": {41: 50.25, 82: 40.0}, "CTC loss, nats a token": {41: 0.7255, 82: 0.6}}


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (
            "epoch 1 step 5: WER 60 %, CTC loss 0.9 a token, CTC-CRF loss 0.404 (3 s)",
            "CTC-CRF loss, nats a token",
            0.404,
        ),
        ("epoch 1 step 5: perplexity 267.1 a word, 2.1000 nats a unit (3 s)", "perplexity a word", 267.1),
        (
            "epoch 1 step 5: 61.2 % of the hidden frames not guessed, 3.2 nats a frame (1 s)",
            "hidden frames not guessed, %",
            61.2,
        ),
    ],
)
def test_other_tasks_have_other_numbers(tmp_path, line, name, value):
    (tmp_path / "log.txt").write_text(line)
    found = read_curves(tmp_path).validation
    assert next(iter(found)) == name
    assert found[name] == {5: value}
    assert len(found) >= 2


def test_runs_become_a_picture(exp, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert call(exp, exp, "--chain", "--losses", "ctc", "crf", "--out", tmp_path / "new/curves.svg") == 0
    assert "exp: 82 steps, validation WER, %: best 40 at step 82, last 40" in capsys.readouterr().out
    assert "validation: WER" in (tmp_path / "new/curves.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no log.txt of a training run can be read here"),
        (["exp", "--losses", "cr"], "--losses cr: these runs have crf, ctc, loss"),
        (["exp", "--out", "curves.txt"], r"curves.txt: a plot's name must end in \.png, \.svg or \.pdf"),
    ],
)
def test_what_cannot_be_drawn_is_said(exp, monkeypatch, words, message):
    monkeypatch.chdir(exp.parent)
    with pytest.raises(UserError, match=message):
        call(*words)


def test_a_run_without_a_step_has_no_curves(tmp_path):
    (tmp_path / "log.txt").write_text(LOG.splitlines()[0])
    with pytest.raises(UserError, match="no step was logged yet"):
        read_curves(tmp_path)
