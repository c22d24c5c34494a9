#!/usr/bin/env bash
# The tests, set-up included: tests/run.sh [--all] [arguments of pytest, such as tests/audio -k speed]
#   --all  run the slow ones too, which take minutes, and the custom operators with the oldest torch that pyproject.toml allows
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/egs/setup.sh" test
cd "$root"

all=
if [ "${1:-}" = --all ]; then all=1 && shift; else set -- -m "not slow" "$@"; fi

ruff check .
ruff format --check .
pyright --level error
# The processes share the cores, so each takes one thread.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
[ -n "$all" ] || exit 0

oldest=$(sed -n 's/^ *"torch>=\([0-9.]*\),.*/\1/p' pyproject.toml)
venv=$root/.venv-torch-$oldest
[ -x "$venv/bin/python" ] || "$(samba_asr_find_python)" -m venv "$venv"
samba_asr_pip "$venv" "torch==$oldest.*"
samba_asr_pip "$venv" -e "$root[test,gpu]"
"$venv/bin/python" -m pytest -q tests/ops -k custom_op
