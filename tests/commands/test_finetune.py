"""`samba-asr finetune`: from a folder of recordings and texts to a scored model, on the twenty clips of egs/finetune."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from samba_asr import config as configs
from samba_asr.cli import main
from samba_asr.data.manifest import Utterance, read_manifest, write_manifest
from samba_asr.decoding.confidence import Calibration
from samba_asr.evaluation import finetune as finetuning
from samba_asr.evaluation.finetune import finetune
from samba_asr.models.box import box_folder
from samba_asr.training import language_model

EGS = Path(__file__).parents[2] / "egs" / "finetune"
QUICK = ["--init", "digits", "--set", "train.max_steps=2", "data.batch_seconds=10", "train.device=cpu"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """my_corpus/<speaker>/<n>.wav and .txt, as the walk-through makes it."""
    torch.set_num_threads(1)
    sys.path.insert(0, str(EGS))
    try:
        import clips
    finally:
        sys.path.remove(str(EGS))
    folder = tmp_path_factory.mktemp("own") / "my_corpus"
    clips.write(folder)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
def test_a_folder_of_recordings_and_texts_becomes_a_scored_model(clips, tmp_path, capsys):
    (clips / "af_nova" / "broken.wav").write_bytes(b"no audio")
    (clips / "af_nova" / "broken.txt").write_text("One.")
    out = tmp_path / "my_model"
    command = ["bash", str(EGS / "run.sh"), str(clips), "--out", str(out), "--license", "CC0", *QUICK]
    environment = {**os.environ, "SAMBA_ASR_VENV": sys.prefix, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    (clips / "af_nova" / "broken.wav").unlink()
    assert done.returncode == 0, done.stderr
    head, before, after, confidences, last = done.stdout.splitlines()[-5:]
    assert head.startswith("word errors in the test: 5 utterances of other speakers, ")
    assert [line.split()[0] for line in (before, after)] == ["digits", str(out)]
    assert confidences == "confidences: calibrated"
    assert last == f"your model is {out}; try: samba-asr transcribe --model {out} FILE"
    sets = {
        name: read_manifest(tmp_path / "my_model.work" / "data" / f"{name}.jsonl") for name in ("train", "dev", "test")
    }
    assert sorted(map(len, sets.values())) == [5, 5, 10]
    speakers = [{u.speaker for u in some} for some in sets.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 4
    assert "broken" in (tmp_path / "my_model.work" / "data" / "dropped.tsv").read_text()
    assert all(u.text.isupper() and "." not in u.text for some in sets.values() for u in some)
    assert Calibration.read(out)
    wer = json.loads((out / "results.json").read_text())["test"]["wer"]
    assert f"{wer:.2f} %" in after
    card = (out / "README.md").read_text()
    for part in (
        f"| this model | {wer:.2f} %",
        "| digits, before |",
        "License of the weights: CC0",
        "10 utterances",
        "2 speakers",
    ):
        assert part in card
    file = clips / "af_nova" / "0.wav"
    assert main(["transcribe", "--model", str(out), str(file)]) == 0
    assert capsys.readouterr().out.strip() == file.with_suffix(".txt").read_text().strip(" .\n").upper()


def test_voices_that_are_in_training_are_said_to_be(clips, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(finetuning, "WORDS", 10_000)
    shutil.copytree(clips / "af_sky", tmp_path / "one")
    options = finetuning.FinetuneOptions(init="digits", settings=("train.max_steps=1", "train.device=cpu"))
    found = finetune(tmp_path / "one", tmp_path / "model", options)
    assert not found.by_speaker
    assert "the sets share speakers" in caplog.text
    assert not found.calibrated
    assert "not calibrated: only" in caplog.text
    assert Calibration.read(tmp_path / "model") is None


@pytest.fixture(scope="module")
def with_language_model(tmp_path_factory) -> Path:
    """The digits model, with a language model that has read little."""
    folder = tmp_path_factory.mktemp("init")
    shutil.copytree(box_folder("digits"), folder / "model")
    (folder / "text.txt").write_text("ZERO ONE\nNINE\nTHE CAT\n" * 10)
    shape = ["lm.layers=1", "lm.d_model=16", "lm.headdim=16", "lm.d_state=8", "tokenizer.kind=char"]
    options = [
        "--valid",
        str(folder / "text.txt"),
        "--set",
        *shape,
        "train.epochs=1",
        "train.device=cpu",
        "train.ema=0",
    ]
    assert main(["lm", "mamba", str(folder / "text.txt"), "--exp", str(folder / "lm"), *options]) == 0
    shutil.copytree(folder / "lm" / "model", folder / "model" / "mamba_lm")
    settings = ["decode.search.method=beam", "decode.lm.neural=mamba_lm"]
    configs.save(configs.load(overrides=settings, folder=folder / "model"), folder / "model" / "config.yaml")
    return folder / "model"


@pytest.mark.parametrize("case", ["adapted", "few words", "not wanted", "no better"])
def test_the_language_model_learns_the_texts(clips, tmp_path, with_language_model, caplog, monkeypatch, case):
    monkeypatch.setattr(finetuning, "SAID", 10_000 if case == "few words" else 5)
    if case == "no better":
        monkeypatch.setattr(language_model, "ADAPTATION", ("train.epochs=1", "optim.lr=1e-12", "train.ema=0"))
    options = finetuning.FinetuneOptions(
        init=with_language_model,
        settings=("train.max_steps=1", "train.device=cpu"),
        language_model=case != "not wanted",
    )
    with caplog.at_level(logging.INFO):
        found = finetune(clips, tmp_path / "model", options)
    old, new = ((folder / "mamba_lm" / "lm.safetensors").read_bytes() for folder in (with_language_model, found.model))
    assert (found.perplexity is not None) == (old != new) == (case == "adapted")
    card = (found.model / "README.md").read_text()
    assert ("the language model's too" in card) == (case == "adapted")
    if found.perplexity:
        before, after = found.perplexity
        assert after < before
    elif case != "not wanted":
        why = {"few words": "are too few to adapt it to", "no better": "it was no better on the validation texts"}
        assert f"the language model stays as it is: {'' if case == 'few words' else 'adapted, '}" in caplog.text
        assert why[case] in caplog.text


def test_few_steps_of_short_batches_reach_the_learning_rate(tmp_path):
    """Of a small corpus and a slow machine; before, 18 steps of 60 s were all warm-up, and changed no word."""
    manifests = {name: tmp_path / f"{name}.jsonl" for name in ("train", "dev", "test")}
    for path in manifests.values():
        write_manifest(path, [Utterance(f"u{i}", "a.wav", "ONE", duration=6.0) for i in range(50)])  # 5 minutes
    config = finetuning._config(box_folder("english"), manifests, finetuning.FinetuneOptions())
    seconds = 300 * config.data.weights[0] if config.data.weights else 300
    assert config.optim.warmup <= finetuning.STEPS <= seconds / config.data.batch_seconds
    chosen = finetuning.FinetuneOptions(settings=["data.batch_seconds=40", "optim.warmup=3"])
    config = finetuning._config(box_folder("english"), manifests, chosen)
    assert (config.data.batch_seconds, config.optim.warmup) == (40, 3)


def test_a_handful_of_clips_is_refused(clips, tmp_path, capsys):
    (tmp_path / "few").mkdir()
    shutil.copyfile(clips / "af_sky" / "0.wav", tmp_path / "few" / "a.wav")
    (tmp_path / "few" / "a.txt").write_text("one")
    assert main(["finetune", str(tmp_path / "few"), "--out", str(tmp_path / "model")]) == 1
    assert "1 utterances with a text are too few: give 4 or more" in capsys.readouterr().err
