"""The functions of egs/run_stages.sh that say how a recipe went."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
EGS = Path(__file__).parents[2] / "egs"
STAGES = EGS / "run_stages.sh"


def shell(name: str, before: str, call: str) -> tuple[str, str]:
    """Define one function of the file, and call it; return what it prints."""
    (function,) = re.findall(rf"^{name}\(\) \{{\n.*?^\}}\n", STAGES.read_text(), re.MULTILINE | re.DOTALL)
    script = f"set -euo pipefail\n{function}{before}\n{call}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_a_score_is_a_row_of_the_table(tmp_path):
    (tmp_path / "score.txt").write_text(
        "%WER 4.83 [ 21 / 435, 1 ins, 2 del, 18 sub ]\n%SER 12.50 [ 14 / 112 ]\n"
        "95 % interval [ 2.76, 7.11 ], 1000 samples of utterances\n"
    )
    out, _ = shell("row", "", f"row test greedy 640 {tmp_path / 'score.txt'}")
    assert out.split() == ["test", "greedy", "640", "4.83", "[", "2.76,", "7.11", "]"]


@pytest.mark.parametrize(("steps", "warned"), [(2000, True), (1234, False), (0, False)])
def test_too_few_steps_are_said(tmp_path, steps, warned):
    (tmp_path / "log.txt").write_text("... INFO done: 0 steps\n... INFO done: 1234 steps, best validation WER 4.8 %\n")
    _, err = shell("enough", f"exp={tmp_path} steps={steps}", "enough")
    assert ("only 1234 steps were done" in err) == warned


STUB = """#!/usr/bin/env bash
echo "$(basename "$0") OMP_NUM_THREADS=${OMP_NUM_THREADS:-} $*" >>"$CALLS"
case $1 in
  decode) for last; do [ "$before" != --out ] || out=$last; before=$last; done; echo "%WER 9.99"; touch "$out/hyp.txt" ;;
  score) printf '%%WER 4.83 [ 21 / 435 ]\n95 %% interval [ 2.76, 7.11 ], 1000 samples\n' ;;
  average) mkdir -p "${@:5:1}" ;;
esac
"""


def test_a_recipe_prints_each_score_once_in_a_table_with_labels(tmp_path):
    """With commands that do nothing: what a user of egs/digits/run.sh sees on standard output."""
    (tmp_path / "egs").mkdir()
    shutil.copytree(EGS / "digits", tmp_path / "egs" / "digits", ignore=shutil.ignore_patterns("exp", "audio"))
    shutil.copyfile(STAGES, tmp_path / "egs" / "run_stages.sh")
    (tmp_path / "egs" / "setup.sh").write_text("")
    (tmp_path / "bin").mkdir()
    for name in ("samba-asr", "python"):
        (tmp_path / "bin" / name).write_text(STUB)
        (tmp_path / "bin" / name).chmod(0o755)
    exp = tmp_path / "egs" / "digits" / "exp" / "main"
    exp.mkdir(parents=True)
    (exp / "log.txt").write_text("... INFO done: 2500 steps\n")
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    done = subprocess.run(
        ["bash", str(tmp_path / "egs/digits/run.sh")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["set", "search", "latency", "WER", "interval"]
    assert [row.split()[:4] for row in rows] == [
        ["test", search, latency, "4.83"] for search in ("greedy", "rescore") for latency in ("offline", "640", "320")
    ]
    assert f"your model is {exp / 'model'}; try: samba-asr transcribe --model {exp / 'model'} FILE" in done.stderr
    assert "warning" not in done.stderr
    calls = (tmp_path / "calls").read_text()
    assert "python OMP_NUM_THREADS=1 -m torch.distributed.run" in calls  # torchrun prints a banner where it is not set
    assert calls.splitlines()[-1].endswith("--stream --latency-ms 320 data/audio/bf_lily.opus")
