#!/usr/bin/env bash
# Connected digits, which the repository carries: from nothing to a live transcript in minutes on two cores.
#   egs/digits/run.sh [--stage N] [--stop-stage M] [--exp DIR] [key=value ...]         more: --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=digits
configs=(model/tiny train/cpu digits)
data=exp/data # data/ is the corpus itself
tests=(test)
processes=2 # of one thread: so small a model keeps no two threads busy
average=(--last 1) # itself a moving average; the 104 words of dev are too few to choose by
decodings=(greedy:offline greedy:640 greedy:320 rescore:offline rescore:640 rescore:320)
source ../run_stages.sh "$@"
run_stages

if [ "$stop_stage" -eq 6 ]; then # a voice that training never heard, as if it were spoken now: 320 ms at a time
  echo "== live: data/audio/bf_lily.opus, partial results as they change ==" >&2
  samba-asr transcribe --model "$exp/model" --stream --latency-ms 320 data/audio/bf_lily.opus
fi
