"""`samba-asr bench serve`: a service of its own, and clients that check what it says."""

from __future__ import annotations

import argparse
import json

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from samba_asr.commands import bench_serve
from samba_asr.errors import UserError


def call(place, *more) -> int:
    parser = argparse.ArgumentParser()
    bench_serve.add_parser(parser.add_subparsers())
    words = ["serve", "--model", place / "model", "--data", place / "corpus.jsonl", "--device", "cpu", *more]
    args = parser.parse_args([str(w) for w in words])
    return args.run(args)


def test_clients_are_served_up_to_the_limit_and_all_read_what_they_should(place, capsys):
    assert call(place, "--clients", 2, 4, "--max-sessions", 2, "--seconds", 1.5, "--latency-ms", 320, "--json") == 0
    two, four = json.loads(capsys.readouterr().out)["rows"]
    assert (two["clients"], two["refused"], two["lost"], two["differing"]) == (2, 0, 0, 0)
    assert four["refused"] >= 1
    assert (four["lost"], four["differing"]) == (0, 0)
    assert two["partial_p50"] <= two["partial_p95"]
    assert 0 < two["final_p50"] <= two["final_p95"]
    assert two["memory"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--clients", 0], "must be positive"),
        (["--data", "nowhere"], "no such manifest"),
        (["--seconds", 900], "less than"),
    ],
)
def test_what_cannot_be_measured(place, more, message):
    with pytest.raises(UserError, match=message):
        call(place, *more)
