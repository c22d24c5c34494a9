"""egs/librispeech at the scale of 960 hours, on a stand-in of some hundred utterances: every stage, from shards, killed twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.shared import needs_shared, shared

ROOT = Path(__file__).resolve().parents[2]
PARTS = {  # subset of LibriSpeech -> folder of ../shared, its speakers, files of each
    "train-clean-100": ("train-5h", slice(0, 5), 20),
    "train-clean-360": ("train-5h", slice(5, 10), 20),
    "train-other-500": ("train-5h", slice(10, 15), 20),
    "dev-clean": ("dev-5h", slice(0, 1), 6),
    "dev-other": ("dev-5h", slice(1, 3), 6),
    "test-clean": ("test-5h", slice(0, 1), 6),
    "test-other": ("test-5h", slice(1, 3), 6),
}


def stand_in(folder: Path) -> Path:
    """LibriSpeech's layout with links to real speech."""
    for name, (source, speakers, most) in PARTS.items():
        origin = shared(f"data/LibriSpeech/{source}")
        assert origin is not None
        for speaker in sorted(p for p in origin.iterdir() if p.is_dir())[speakers]:
            chapter = sorted(speaker.iterdir())[0]
            place = folder / "LibriSpeech" / name / speaker.name / chapter.name
            place.mkdir(parents=True)
            kept = sorted(p for p in chapter.iterdir() if p.suffix != ".txt")[:most]
            ids = {p.stem for p in kept}
            for path in kept:
                (place / path.name).symlink_to(path)
            (text,) = chapter.glob("*.trans.txt")
            lines = [line for line in text.read_text().splitlines(keepends=True) if line.split()[0] in ids]
            (place / text.name).write_text("".join(lines))
    return folder


def mine(exp: Path) -> list[int]:
    """Processes that train in `exp`: the launcher first, then the ranks."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(exp).encode() in command and b"samba_asr.cli" in command:
                found.append(int(entry.name))
    return sorted(found)


def eventually(true, process: subprocess.Popen) -> None:
    while not true():
        assert process.poll() is None, "it has ended already"
        time.sleep(0.2)


@pytest.mark.slow
@needs_shared("data/LibriSpeech")
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_960_hours_in_small_every_stage_killed_twice(tmp_path):
    (tmp_path / "egs").mkdir()
    for name in ("run_stages.sh", "setup.sh", "librispeech"):  # the recipe writes data/ beside itself
        copy = shutil.copytree if (ROOT / "egs" / name).is_dir() else shutil.copy
        copy(ROOT / "egs" / name, tmp_path / "egs" / name)
    exp = tmp_path / "exp"
    source = stand_in(tmp_path / "corpus")
    options = f"--subset 960 --source {source} --shards {tmp_path / 'shards'} --exp {exp} --processes 2 --restarts 1"
    options += " --decode greedy:offline --config model/tiny --config train/cpu tokenizer.kind=char loss.decoder=0"
    options += (
        " model.decoder.layers=0 train.max_steps=12 data.batch_seconds=40 data.workers=0 train.save_minutes=0.001"
    )
    command = [str(tmp_path / "egs/librispeech/run.sh"), *options.split(), "train.log_every=1", "train.keep_best=2"]
    environment = {**os.environ, "SAMBA_ASR_VENV": sys.prefix, "OMP_NUM_THREADS": "1"}

    def start(*more: str) -> subprocess.Popen:
        with open(tmp_path / "output.txt", "a") as output:
            return subprocess.Popen([*command, *more], env=environment, stdout=output, stderr=output)

    def logged() -> str:
        return (exp / "log.txt").read_text() if (exp / "log.txt").exists() else ""

    machine = start()
    eventually(lambda: " step 3 " in logged() and len(mine(exp)) >= 3, machine)
    for pid in mine(exp):  # the machine goes down
        os.kill(pid, signal.SIGKILL)
    assert machine.wait(timeout=120) != 0

    again = start("--stage", "2")
    eventually(lambda: logged().count("resuming at") == 1 and len(mine(exp)) >= 3, again)
    steps = logged().count(" step ")
    eventually(lambda: logged().count(" step ") > steps + 1, again)
    os.kill(mine(exp)[-1], signal.SIGKILL)  # one rank: torchrun starts both again
    assert again.wait() == 0, (tmp_path / "output.txt").read_text()[-3000:]

    log, output = logged(), (tmp_path / "output.txt").read_text()
    assert log.count("resuming at") == 2
    assert list((tmp_path / "shards").glob("*.tar"))
    assert (exp / "model" / "model.safetensors").exists()
    rows = [line.split()[:3] for line in output.splitlines() if " greedy " in line and "[" in line]
    assert rows == [[name, "greedy", "offline"] for name in ("dev-clean", "dev-other", "test-clean", "test-other")]
