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
# In one call, and without the extra `test`, whose triton wants a newer torch: pip would take that, and say nothing.
# The interpreter of this torch's triton does not run with numpy 2.4.
samba_asr_pip "$venv" "torch==$oldest.*" -e "$root[gpu]" pytest hypothesis "numpy<2.4"
"$venv/bin/python" -c "import torch; assert torch.__version__.startswith('$oldest'), torch.__version__"
"$venv/bin/python" -m pytest -q tests/ops -k custom_op
