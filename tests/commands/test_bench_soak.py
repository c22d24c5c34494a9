"""`samba-asr bench soak`, for seconds: every sort of client, and a verdict."""

from __future__ import annotations

import argparse

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from samba_asr.bench.soak import Tally
from samba_asr.commands import bench_soak
from samba_asr.errors import UserError


def call(place, *more) -> int:
    parser = argparse.ArgumentParser()
    bench_soak.add_parser(parser.add_subparsers())
    words = [
        "soak",
        "--model",
        place / "model",
        "--data",
        place / "corpus.jsonl",
        "--device",
        "cpu",
        "--latency-ms",
        320,
        *more,
    ]
    args = parser.parse_args([str(w) for w in words])
    return args.run(args)


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_wrong(place, capsys):
    assert call(place, "--minutes", 0.2, "--clients", 8, "--max-sessions", 5, "--seconds", 1.5) == 0
    head, *rows, sorts, growth, places = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "minutes"
    minutes, ended, _, lost, differing, wrong, mib, errors = rows[-1].split()
    assert float(minutes) >= 0.2
    assert int(ended) > 8
    assert (lost, differing, wrong, errors) == ("0", "0", "0", "0")
    assert float(mib) > 0
    assert "live" in sorts
    assert "MiB an hour" in growth
    assert places == "all places are free at the end"


def test_an_error_in_the_log_is_found(tmp_path):
    log = tmp_path / "log"
    log.write_text('{"level": "INFO"}\n{"level": "ERROR", "event": "planted"}\nTraceback\n\n')
    assert bench_soak._errors(str(log)) == ['{"level": "ERROR", "event": "planted"}', "Traceback"]


def test_growth_is_of_the_second_half():
    tally = Tally(memory=[(60.0 * n, 100.0 + (50 - n) ** 2 * (n < 50) + n * 2) for n in range(100)])
    assert tally.growth() == pytest.approx(120.0)  # MiB an hour
    assert Tally().growth() == 0.0


def test_what_cannot_be(place):
    with pytest.raises(UserError, match="all must be positive"):
        call(place, "--minutes", 0)
