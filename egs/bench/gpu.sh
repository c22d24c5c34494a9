#!/usr/bin/env bash
# All that needs a GPU, in less than eight minutes, the most important first: kernels and graphs agree with their definitions,
# launches and speed of training, live steps, scans and mixers beside other packages'.
#   egs/bench/gpu.sh OUT       OUT: folder for logs and results.jsonl, a line a row; what could not be measured says why
# It uses the current `python` (samba_asr with the extras train and gpu; pytest; optionally mamba-ssm and fla-core) and installs
# nothing.  Each part is one process with its own limit of time; one that fails does not stop the others.
set -uo pipefail
[ $# -eq 1 ] || { echo "usage: gpu.sh OUT" >&2 && exit 2; }
mkdir -p "$1" && out=$(realpath "$1") || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "error: torch finds no CUDA device" >&2 && exit 1; }
unset TRITON_INTERPRET
failed=0

part() { # NAME SECONDS COMMAND...: run it, with its output in OUT/NAME.txt
  local name=$1 seconds=$2 began=$SECONDS status=0
  shift 2
  echo "== $name: $*"
  timeout --kill-after=5 "$seconds" "$@" >"$out/$name.txt" 2>&1 || status=$?
  [ "$status" -eq 0 ] || failed=1
  tail -n 15 "$out/$name.txt"
  printf '{"part": "%s", "status": %d, "seconds": %d}\n' "$name" "$status" $((SECONDS - began)) | tee -a "$out/results.jsonl"
}

rows() { # PART SECONDS: measure a part of samba_asr.bench.gpu; its own limit comes first, so that it can say what it left out
  part "$1" $(($2 + 15)) python -m samba_asr.bench.gpu "$1" "$2" "$out/results.jsonl"
}

many=() && python -c 'import xdist' 2>/dev/null && many=(-n 8)
part tests 120 python -m pytest -q "${many[@]}" tests/ops tests/nn/test_mixers.py tests/runtime/test_graphs.py tests/nn/test_linear.py \
  tests/nn/test_stated.py tests/training/test_gpu.py
rows training 90
rows live 30
rows scans 90
rows mixers 60
exit "$failed"
