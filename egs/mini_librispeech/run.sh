#!/usr/bin/env bash
# Five hours of LibriSpeech: a first model of real speech.  Without --source: ../shared, or a download of 460 MB.
#   egs/mini_librispeech/run.sh [--stage N] [--stop-stage M] [--source FOLDER] [key=value ...]     more: --help
# With a GPU: --processes 1 --config model/small --config train/gpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=mini_librispeech
configs=(model/mini train/cpu mini_librispeech)
data=data
processes=2 # of one thread each: 14 % faster than one of two (run A, 7.6 M parameters)
average=(--last 1) # itself a moving average
tests=(dev test)
decodings=(greedy:-1 greedy:16 greedy:8 rescore:-1 rescore:16 rescore:8)
source ../run_stages.sh "$@"
run_stages
