"""The main job in small: a corpus is prepared, a tiny model trained on its audio for a few steps, averaged, decoded, used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from samba_asr.cli import main
from samba_asr.data.manifest import read_manifest
from tests.shared import needs_shared, shared

TINY = [
    "model.d_model=32",
    "model.layers=2",
    "model.mixer.headdim=16",
    "model.mixer.d_state=8",
    "model.subsampling_channels=4",
    "model.decoder.layers=1",
    "model.decoder.d_model=32",
    "model.decoder.headdim=16",
    "model.decoder.d_state=8",
    "loss.decoder=0.3",
    "tokenizer.kind=char",
    "data.batch_seconds=30",
    "optim.warmup=3",
    "optim.lr=2e-3",
]


def run(*args) -> None:
    assert main([str(a) for a in args]) == 0, args


def whole_job(data: Path, folder: Path, audio: str, capsys) -> dict:
    """Train, average, decode twice, transcribe one file; returns the results of the decoding."""
    exp, model = folder / "exp", folder / "model"
    lists = [f"data.train=[{data}/train.jsonl]", f"data.valid=[{data}/dev.jsonl]"]
    run("train", "--exp", exp, *TINY, *lists, "train.max_steps=6", "train.log_every=2")
    log = (exp / "log.txt").read_text()
    assert "validation WER" in log
    assert "ref " in log
    run("average", "--exp", exp, "--out", model)
    for name, settings in (
        ("greedy", []),
        ("second-pass", ["decode.search.method=beam", "decode.search.rescore=0.3", "decode.block=8"]),
    ):
        run(
            "decode",
            "--model",
            model,
            "--data",
            data / "test.jsonl",
            "--out",
            folder / name,
            "--streaming-check",
            *settings,
        )
    capsys.readouterr()
    run("transcribe", "--model", model, "--format", "json", audio)
    assert json.loads(capsys.readouterr().out)["audio"] == audio
    return json.loads((folder / "second-pass" / "results.json").read_text())


def test_on_the_corpus_in_the_repository(tmp_path, capsys):
    run("prepare", "digits", "--out", tmp_path / "data")
    for split, n in (("train", 40), ("dev", 6), ("test", 8)):
        lines = (tmp_path / "data" / f"{split}.jsonl").read_text().splitlines()
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines[:n]) + "\n")
    results = whole_job(tmp_path / "data", tmp_path, read_manifest(tmp_path / "data" / "test.jsonl")[0].audio, capsys)
    assert results["streaming_check"]["utterances"] == 8
    assert results["streaming_check"]["differing"] == []


@needs_shared("data/LibriSpeech")
def test_on_real_speech(tmp_path, capsys):
    """One chapter of each of a few speakers of LibriSpeech, in its own layout, short utterances."""
    for part in ("train-5h", "dev-5h", "test-5h"):
        speakers = sorted(p for p in shared(f"data/LibriSpeech/{part}").iterdir() if p.is_dir())[
            : 4 if part == "train-5h" else 1
        ]
        for speaker in speakers:
            chapter = sorted(p for p in speaker.iterdir() if p.is_dir())[0]
            target = tmp_path / "LibriSpeech" / part / speaker.name / chapter.name
            target.mkdir(parents=True)
            (transcript,) = chapter.glob("*.trans.txt")
            small = sorted(chapter.glob("*.opus"), key=lambda p: p.stat().st_size)[:8]
            for file in small:
                shutil.copy(file, target)
            names = {f.stem for f in small}
            lines = [line for line in transcript.read_text().splitlines() if line.split()[0] in names]
            (target / transcript.name).write_text("\n".join(lines) + "\n")
    run("prepare", "mini_librispeech", "--source", tmp_path / "LibriSpeech", "--out", tmp_path / "data")
    results = whole_job(tmp_path / "data", tmp_path, read_manifest(tmp_path / "data" / "test.jsonl")[0].audio, capsys)
    assert results["streaming_check"]["utterances"] == 8
    assert results["streaming_check"]["differing"] == []


def test_a_wrong_key_stops_the_job_before_it_begins(tmp_path, capsys):
    assert main(["train", "--exp", str(tmp_path), "optim.lrr=1"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.endswith("optim.lrr=1: unknown key optim.lrr (did you mean optim.lr?)")
