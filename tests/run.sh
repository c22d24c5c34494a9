#!/usr/bin/env bash
# All tests, set-up included: tests/run.sh [arguments of pytest, such as tests/audio -k speed]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/egs/setup.sh" test
cd "$root"

ruff check .
ruff format --check .
pyright --level error
# The processes share the cores, so each takes one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec python -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
