#!/usr/bin/env bash
# LibriSpeech, trained on 100 or 960 hours.  Without --source: a download (30 or 60 GB).
#   egs/librispeech/run.sh [--subset 100|960] [--stage N] [--stop-stage M] [key=value ...]     more: --help
# With several GPUs: --processes N --restarts 3; from tar shards on a fast disk: --shards DIR.  What 960 hours cost: PLAN.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

subset=100
recipe_option() { # name value
  [ "$1" = --subset ] || return 1
  case $2 in 100 | 960) subset=$2 ;; *) fail "--subset $2: 100 or 960 hours" ;; esac
}

corpus=librispeech
configs=(train/gpu librispeech)
data=data
valid=dev-clean
tests=(dev-clean dev-other test-clean test-other)
decodings=(greedy:offline greedy:640 greedy:320 rescore:offline rescore:640 rescore:320)
source ../run_stages.sh "$@"

# Each amount of data has its own manifests, run and model size; --config model/NAME changes the size.
data=data/$subset
[ "$exp" != exp/main ] || exp=exp/$subset
train=(train-clean-100)
size=model/base
if [ "$subset" = 960 ]; then train+=(train-clean-360 train-other-500) size=model/large; fi
configs=("$size" "${configs[@]}")
prepare_options+=(--subset "${train[@]}" "${tests[@]}")
run_stages
