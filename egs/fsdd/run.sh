#!/usr/bin/env bash
# Free Spoken Digit Dataset: single digits by six people, 8 kHz.  Test: recordings n < 5, its authors' rule.
#   egs/fsdd/run.sh [--stage N] [--stop-stage M] [--source FOLDER] [key=value ...]     more: --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=fsdd
configs=(model/tiny train/cpu digits fsdd)
data=data
tests=(test)
processes=2 # of one thread each: a model this small does not use two threads
average=(--last 1)
decodings=(greedy:offline greedy:640 greedy:320 rescore:offline rescore:640 rescore:320)
source ../run_stages.sh "$@"
run_stages
