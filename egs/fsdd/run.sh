#!/usr/bin/env bash
# Free Spoken Digit Dataset: single digits by six people, 8 kHz.  Test: recordings n < 5, as its authors have it.
#   egs/fsdd/run.sh [--stage N] [--stop-stage M] [--source FOLDER] [key=value ...]     more: --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=fsdd
configs=(model/tiny train/cpu digits fsdd)
data=data
tests=(test)
processes=2 # of one thread: so small a model keeps no two threads busy
average=(--last 1)
decodings=(greedy:-1 greedy:16 greedy:8 rescore:-1 rescore:16 rescore:8)
source ../run_stages.sh "$@"
run_stages
