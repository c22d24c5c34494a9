#!/usr/bin/env bash
# Fine-tune the bundled English model on your own speech, and score both: README.md beside this file explains it.
#   egs/finetune/run.sh [CORPUS] [options of samba-asr finetune]     without a corpus: twenty clips of digits
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../setup.sh" train

corpus=$here/exp/my_corpus
if [ $# -gt 0 ] && [ -e "$1" ]; then
  corpus=$1
  shift
else
  python "$here/clips.py" "$corpus"
fi
samba-asr finetune "$corpus" --out "$here/exp/my_model" --minutes 3 "$@"
