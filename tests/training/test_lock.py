"""A folder holds one run at a time; a dead run blocks no other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from samba_asr.errors import UserError
from samba_asr.training.lock import FILE, locked

HOLD = """
import sys, time
from samba_asr.training.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_who_is_there(tmp_path, other):
    with (
        pytest.raises(UserError, match=rf"process {other.pid} on {socket.gethostname()} trains here: wait"),
        locked(tmp_path),
    ):
        pass
    other.communicate("")
    assert not (tmp_path / FILE).exists()
    with locked(tmp_path):
        pass


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, other):
    other.kill()
    other.wait()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == other.pid
    with locked(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / FILE).exists()


def test_that_of_another_machine_is_left_alone(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"pid": 7, "host": "far"}))
    with (
        pytest.raises(UserError, match=r"process 7 on far trains here: .* if that run is dead, delete"),
        locked(tmp_path),
    ):
        pass
    assert "far" in (tmp_path / FILE).read_text()


def test_a_run_may_hold_its_folder_twice(tmp_path):
    with locked(tmp_path):
        with locked(tmp_path):
            pass
        assert (tmp_path / FILE).exists()
    (tmp_path / FILE).write_text("")  # half written: nobody's
    with locked(tmp_path):
        pass
