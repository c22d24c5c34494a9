#!/usr/bin/env bash
# All checks that need a GPU, in under ten minutes: kernels run and agree, their speed and that of their peers, and training.
#   egs/bench/gpu.sh OUT [MANIFEST]       OUT: folder for logs, tables and plots; MANIFEST: training utterances, default noise
# It uses the current `python` (samba_asr with the extras train, plot and gpu; pytest; optionally mamba-ssm and fla-core) and
# installs nothing.  A part that fails or takes too long does not stop the others; its status is recorded.
set -uo pipefail
[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: gpu.sh OUT [MANIFEST]" >&2 && exit 2; }
mkdir -p "$1" && out=$(realpath "$1") || exit 2
data=() && [ $# -eq 2 ] && data=(--data "$(realpath "$2")")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
asr=(python -m samba_asr.cli)

python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "error: torch finds no CUDA device" >&2 && exit 1; }
unset TRITON_INTERPRET
failed=0

part() { # NAME SECONDS COMMAND...: run it, with its output in OUT/NAME.txt
  local name=$1 seconds=$2 began=$SECONDS status=0
  shift 2
  echo "== $name: $*"
  timeout "$seconds" "$@" >"$out/$name.txt" 2>&1 || status=$?
  [ "$status" -eq 0 ] || failed=1
  tail -n 15 "$out/$name.txt"
  echo "$name: status $status after $((SECONDS - began)) s" | tee -a "$out/status.txt"
}

many=() && python -c 'import xdist' 2>/dev/null && many=(-n 8)
part doctor 20 "${asr[@]}" doctor
part tests 150 python -m pytest -q "${many[@]}" tests/ops tests/nn/test_mixers.py tests/runtime/test_graphs.py
lengths=(--length 100 250 500 1500 4000)
scans=(--device cuda --op selective_scan ssd)
part scans-bfloat16 90 "${asr[@]}" bench ops "${scans[@]}" --dtype bfloat16 "${lengths[@]}" --plot "$out/scans-bfloat16.png"
part scans-float32 50 "${asr[@]}" bench ops "${scans[@]}" --length 250 1500 --plot "$out/scans-float32.png"
part sizes 50 "${asr[@]}" bench ops "${scans[@]}" --dtype bfloat16 --length 500 --batch 1 64 --d-model 144 512
mixers=(bench ops --device cuda --op mamba mamba2 hydra --dtype bfloat16 --length 250 1500 4000)
training=(bench train --config model/small train/gpu mini_librispeech data.batch_seconds=600 "${data[@]}")
for kernels in none triton; do
  export SAMBA_ASR_KERNELS=$kernels
  part "mixers-$kernels" 40 "${asr[@]}" "${mixers[@]}"
  part "train-$kernels" 50 "${asr[@]}" "${training[@]}"
  part "transcribe-$kernels" 25 "${asr[@]}" bench transcribe --device cuda
done
exit "$failed"
