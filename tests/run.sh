#!/usr/bin/env bash
# The tests, set-up included: tests/run.sh [--all] [arguments of pytest, such as tests/audio -k speed]
#   --all  run the slow ones too, which take minutes
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/egs/setup.sh" test
cd "$root"

if [ "${1:-}" = --all ]; then shift; else set -- -m "not slow" "$@"; fi

ruff check .
ruff format --check .
pyright --level error
# The processes share the cores, so each takes one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec python -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
