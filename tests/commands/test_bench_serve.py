"""`samba-asr bench serve`: a service of its own, and clients that check what it says."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from samba_asr.bench.turns import Notice, judge, voiced
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


def test_talks_of_whole_utterances_are_scored_and_their_turns_counted(place, capsys):
    assert call(place, "--clients", 1, "--turns", "--end-ms", 400, "--seconds", 1, "--latency-ms", 320, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["refused"], row["lost"], row["differing"]) == (0, 0, 0)
    assert row["ends"] >= 1
    assert row["turns_met"] + row["turns_early_per_hour"] > 0
    assert row["wer"] >= 0


def test_ends_of_turn_are_early_on_time_or_more_than_needed():
    sounds = [(0.5, 2.0), (4.0, 6.0)]
    notices = [
        Notice(0.2, 0.3),
        Notice(1.9, 2.1),
        Notice(2.4, 2.6),
        Notice(3.2, 3.4),
        Notice(5.0, 5.3),
        Notice(6.5, 7.1),
    ]
    delays, early = judge(sounds, notices)
    assert delays == pytest.approx([0.6, 1.1])
    assert early == 3  # before any sound, and twice amid an utterance
    assert judge(sounds, []) == ([], 0)


def test_the_last_sound_of_an_utterance_is_where_it_is_loud():
    samples = np.concatenate([np.full(1600, 0.001), np.full(3200, 0.5), np.full(4800, 0.002)])
    assert voiced(samples, 16000) == pytest.approx((0.1, 0.3))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--clients", 0], "must be positive"),
        (["--data", "nowhere"], "no such manifest"),
        (["--seconds", 900], "less than"),
        (["--seconds", 900, "--turns"], "less audio than"),
        (["--turns", "--eager-ms", 0], "eager_ms=0: give"),
    ],
)
def test_what_cannot_be_measured(place, more, message):
    with pytest.raises(UserError, match=message):
        call(place, *more)
