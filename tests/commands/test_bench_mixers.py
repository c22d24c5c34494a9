"""`samba-asr bench mixers`: runs that are done once, a table that says what is a tie, and one real comparison in small."""

from __future__ import annotations

import argparse
import json

import pytest

from samba_asr.bench import mixers
from samba_asr.cli import main
from samba_asr.commands import bench
from samba_asr.config import MIXERS
from samba_asr.errors import UserError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero"]
LAYER = {"train_ms": 4.0, "blocks_ms": 3.0, "live_1_ms": 0.5, "live_16_ms": 2.0, "state": 1024, "parameters": 100}


def manifest(path, n=40):
    rows = [{"id": f"u{i}", "audio": f"{i}.wav", "text": " ".join(WORDS), "duration": 1.0} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def call(*words) -> int:
    parser = argparse.ArgumentParser()
    bench.add_parser(parser.add_subparsers())
    args = parser.parse_args(["bench", "mixers", *map(str, words)])
    return args.run(args)


@pytest.fixture
def asked(monkeypatch):
    """Each question to a process of its own; a run of mamba has no error, of others one in ten words, of seed 3 all."""
    questions = []

    def apart(module, threads, question):
        assert module == "samba_asr.bench.mixers"
        questions.append(question)
        if question["what"] == "speed":
            return {"variants": dict.fromkeys(question["variants"], LAYER), "threads": threads}
        kind = next(text.split("=")[1] for text in question["overrides"] if text.startswith("model.mixer.name="))
        wrong = {"mamba": 0, "hydra": 1}.get(kind, 5)
        texts = {f"u{i}": " ".join(WORDS[wrong if i else 0 :]) for i in range(40)}
        mixers.Path(question["folder"]).mkdir(parents=True, exist_ok=True)
        found = {name: dict.fromkeys(question["latencies"], texts) for name in question["tests"]}
        return {"texts": found, "steps": 20, "minutes": 1.0, "learned": 15, "parameters": 10**6}

    monkeypatch.setattr("samba_asr.bench.measure.apart", apart)
    return questions


def test_a_run_that_is_done_is_not_repeated(tmp_path, asked, capsys):
    base = ("--out", tmp_path / "out", "--test", manifest(tmp_path / "test.jsonl"), "--steps", 20, "--threads", 1)
    assert call(*base, "--mixers", "mamba", "s4", "--seeds", 1) == 0
    folders = [mixers.Path(q["folder"]).name for q in asked if q["what"] == "run"]
    assert folders == ["mamba-seed1", "s4-seed1"]
    asked.clear()
    assert call(*base, "--mixers", "mamba", "s4", "hydra", "--seeds", 1, 2) == 0
    folders = [mixers.Path(q["folder"]).name for q in asked if q["what"] == "run"]
    assert folders == ["hydra-seed1", "s4-seed2", "hydra-seed2", "mamba-seed2"]  # each seed from another mixer on
    (tmp_path / "out/s4-seed2/run.json").unlink()  # as if killed
    asked.clear()
    assert call(*base, "--mixers", "mamba", "s4", "hydra", "--seeds", 1, 2) == 0
    assert [mixers.Path(q["folder"]).name for q in asked if q["what"] == "run"] == ["s4-seed2"]
    with pytest.raises(UserError, match=r"mamba-seed1.*a run with other overrides: give another folder by --out"):
        call(*base[:4], "--steps", 30, "--mixers", "mamba")


def test_the_table_has_every_number_and_says_what_is_a_tie(tmp_path, asked, capsys):
    test = manifest(tmp_path / "test.jsonl")
    call(
        "--out",
        tmp_path,
        "--test",
        test,
        "--steps",
        20,
        "--mixers",
        "mamba",
        "mamba:init=lin",
        "hydra",
        "--seeds",
        1,
        2,
    )
    text = capsys.readouterr().out
    assert text == (tmp_path / "mixers.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == ["`mamba`", "`mamba:init=lin`", "`hydra`"]
    assert rows[0][1:4] == ["**0.00** [0.0, 0.0] (0.0, 0.0)"] * 3
    assert rows[1][1].startswith("**0.00**")
    assert rows[2][1].startswith("9.75 [")  # 39 of 400 words, and the interval is far from 0
    assert rows[2][4:] == ["15", "3000", "20", "1.00", "4.0", "4", "3", "0.50 / 2.00"]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["variants"]["hydra"]["scores"]["test"]["640"]["tie"] is False
    assert (tmp_path / "mixers.png").stat().st_size > 1000


def test_every_mixer_is_compared_unless_some_are_named(tmp_path, asked, capsys):
    call("--out", tmp_path, "--test", manifest(tmp_path / "test.jsonl"), "--steps", 2, "--seeds", 1)
    assert len([q for q in asked if q["what"] == "run"]) == len(MIXERS)


def test_settings_may_stand_anywhere(tmp_path, asked, capsys):
    test = manifest(tmp_path / "test.jsonl")
    words = (
        "--mixers",
        "mamba",
        "data.workers=0",
        "--config",
        "model/tiny",
        "optim.lr=0.1",
        "--test",
        test,
        "model.layers=2",
        "--steps",
        2,
        "--latency",
        "offline",
        "train.ema=0",
    )
    call("--out", tmp_path, *words, "--seeds", 1, "optim.warmup=3")
    assert asked[0]["files"] == ["model/tiny"]
    said = ["optim.lr=0.1", "model.layers=2", "data.workers=0", "optim.warmup=3", "train.ema=0"]
    assert asked[0]["overrides"][:5] == said
    assert asked[0]["latencies"] == ["offline"]
    assert asked[0]["tests"] == {"test": str(test)}


def test_minutes_are_a_budget_too(tmp_path, asked, capsys):
    test = manifest(tmp_path / "test.jsonl")
    call("--out", tmp_path, "--test", test, "--minutes", 0.1, "--seeds", 1, "--mixers", "mamba")
    assert "train.max_minutes=0.1" in asked[0]["overrides"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mixers", "hydro", "--steps", "2"], "--mixers hydro: there is no mixer 'hydro'; use .*hydra"),
        (["--mixers", "mamba:lin", "--steps", "2"], "'lin' is no key=value"),
        (["--mixers", "hydra:init=lin", "--steps", "2"], "unknown key model.mixer.init"),
        (["--mixers", "mamba", "mamba", "--steps", "2"], "--mixers mamba mamba: give each once"),
        ([], "--steps 0 --minutes 0: give one of them"),
        (["--steps", "2", "--minutes", "1"], "give one of them"),
        (["--steps", "2", "--latency", "fast"], "--latency fast: give milliseconds, or offline"),
        (["--steps", "2", "--rounds", "0"], "--rounds 0"),
        (["--steps", "2", "--seeds", "one"], "--seeds one: give whole numbers"),
        (["--steps", "2", "--lexicon", "none.txt"], "--lexicon none.txt: no such file"),
        (["--steps", "2", "--test", "a=1"], "--test : give manifests"),
    ],
)
def test_what_cannot_be_meant_is_an_error_before_any_work(tmp_path, asked, words, message):
    with pytest.raises(UserError, match=message):
        call("--out", tmp_path / "out", "--test", manifest(tmp_path / "test.jsonl"), *words)
    assert not asked


TINY = [
    *("model.d_model=16", "model.layers=1", "model.mixer.headdim=8", "model.mixer.d_state=4", "model.decoder.layers=0"),
    *("model.subsampling_channels=4", "tokenizer.kind=char", "data.batch_seconds=12", "train.device=cpu"),
]


@pytest.mark.slow
def test_a_comparison_in_small(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    assert main(["prepare", "digits", "--out", str(data)]) == 0
    for split, n in (("train", 12), ("dev", 3), ("test", 3)):
        path = data / f"{split}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:n]))
    lists = [f"data.train=[{data}/train.jsonl]", f"data.valid=[{data}/dev.jsonl]"]
    words = [
        "bench",
        "mixers",
        "--out",
        out,
        "--test",
        data / "test.jsonl",
        "--steps",
        3,
        "--mixers",
        "s4",
        "s4d:init=real",
    ]
    words += ["--seeds", 1, "--latency", "offline", "320", "--rounds", 1, "--threads", 1, *TINY, *lists]
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    assert capsys.readouterr().out.count("\n| `s4") == 2
    first = json.loads((out / "s4-seed1/run.json").read_text())
    assert first["steps"] == 3
    for path in (out / "s4-seed1").iterdir():
        path.unlink() if path.is_file() else None
    (out / "s4-seed1/model/model.safetensors").unlink(missing_ok=True)
    assert main([str(word) for word in words]) == 0
    again = json.loads((out / "s4-seed1/run.json").read_text())
    assert again["texts"] == first["texts"]  # the same seed, the same texts
