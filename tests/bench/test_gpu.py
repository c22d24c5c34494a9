"""The rows of a GPU's parts: written as they come, with the reason for each that is missing."""

from __future__ import annotations

import json
import time

import pytest

from samba_asr.bench import gpu


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_row_that_fails_or_has_no_time_says_so_and_the_others_are_measured(tmp_path):
    def fail():
        raise RuntimeError("no\nluck")

    works = [
        ({"n": 1}, lambda: {"ms": 2.0}),
        ({"n": 2}, fail),
        ({"n": 3}, lambda: time.sleep(9) or {}),  # longer than the part has
        ({"n": 4}, lambda: {"ms": 1.0}),
    ]
    gpu.Part("scans", 1.2, tmp_path / "rows").run(iter(works))
    found = rows(tmp_path / "rows")
    assert found[0] == {"part": "scans", "n": 1, "ms": 2.0}
    assert [row.get("left_out") for row in found] == [
        None,
        "RuntimeError: no luck",
        "TimeoutError: more than 1 s",
        "no time was left",
    ]


def test_our_rows_come_before_those_of_peers_and_missing_peers_are_named():
    works = [what for what, _ in gpu.scans("cpu")]
    ours = [what["backend"] == "triton" for what in works]
    assert ours == sorted(ours, reverse=True)
    assert {what["backend"] for what in works} == {"triton", "mamba-ssm", "fla"}


def test_a_live_step_is_measured():
    (what, work), *_ = [(what, work) for what, work in gpu.live("cpu") if not what["graphs"]]
    assert what["rows"] == 1
    assert work()["ms"] > 0


def test_a_block_ends_after_its_limit():
    with pytest.raises(TimeoutError), gpu.limit(0.05):
        time.sleep(5)
