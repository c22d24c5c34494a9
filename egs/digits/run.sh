#!/usr/bin/env bash
# Connected digits, with data in the repository: from nothing to a live transcript in minutes on two cores.
#   egs/digits/run.sh [--stage N] [--stop-stage M] [--exp DIR] [key=value ...]         more: --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=digits
configs=(model/tiny train/cpu digits)
data=exp/data # data/ is the corpus itself
tests=(test)
steps=2000 # about 3,000 on an idle machine of two cores
processes=2 # of one thread each: a model this small does not use two threads
average=(--last 1) # the checkpoint is a moving average; dev has only 104 words, too few to choose checkpoints
decodings=(greedy:offline greedy:640 greedy:320 rescore:offline rescore:640 rescore:320)
source ../run_stages.sh "$@"
run_stages

if [ "$stop_stage" -eq 6 ]; then # a voice that is not in training, streamed 320 ms at a time
  echo "== live: data/audio/bf_lily.opus, partial results as they change ==" >&2
  samba-asr transcribe --model "$exp/model" --stream --latency-ms 320 data/audio/bf_lily.opus
fi
