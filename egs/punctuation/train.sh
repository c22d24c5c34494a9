#!/usr/bin/env bash
# Punctuation and case from books, as the shipped network began: about 20 minutes of CPU.  RESULTS.md has the runs that went on from
# it (--init).
#   egs/punctuation/train.sh [key=value ...]       settings of punctuation.*, optim.* and train.*
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
books=${BOOKS:-../../../shared/data/books_cased} # .txt.xz: a paragraph a line; .tsv: the books, in order

source ../setup.sh train
samba-asr punctuation split "$books.txt.xz" "$books.tsv" --out exp/data
samba-asr punctuation train exp/data/train.txt --valid exp/data/valid.txt --exp exp/run --out exp/punctuation.safetensors \
  --set train.device=cpu train.dtype=float32 train.max_minutes=76 "$@"
samba-asr punctuation score exp/data/test.txt --punctuator exp/punctuation.safetensors | tee exp/score.txt
