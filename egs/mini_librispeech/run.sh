#!/usr/bin/env bash
# Five hours of LibriSpeech: a first model of real speech.  Without --source: ../shared, or a download of 460 MB.
#   egs/mini_librispeech/run.sh [--stage N] [--stop-stage M] [--source FOLDER] [key=value ...]     more: --help
# With a GPU: --processes 1 --config model/small --config train/gpu
# Phones and a lexicon in place of bpe, much better with a language model: --config phones
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

corpus=mini_librispeech
configs=(model/mini train/cpu mini_librispeech)
data=data
processes=2 # of one thread each: 14 % faster than one of two (run A, 7.6 M parameters)
average=(--last 1) # the checkpoint is a moving average
tests=(dev test)
decodings=(greedy:offline greedy:640 greedy:320 rescore:offline rescore:640 rescore:320 lm:offline lm:640 lm:320)
extras=train,lexicon
lm_text=../../../shared/data/text/lm_corpus.txt.xz
[ -f "$lm_text" ] || lm_text=
lm_options=(--words 150000 --growth 0.02 --pruning 0.1) # 5 minutes; 2.3 million n-grams, 6 MB
source ../run_stages.sh "$@"
run_stages
