"""The functions of egs/run_stages.sh that say how a recipe went."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
STAGES = Path(__file__).parents[2] / "egs" / "run_stages.sh"


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
