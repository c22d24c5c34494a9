#!/usr/bin/env bash
# The bench of all mixers on five hours of read speech: about 1 M parameters, 2,000 steps, two seeds; 16 runs of some 6 minutes of a core.
#   egs/bench/mixers.sh OUT [--mixers NAME...] [--steps N | --minutes M] [--seeds S...] [key=value ...]
# OUT gets data/, a folder for each run, mixers.md, results.json and mixers.png.  Killed or given more mixers, it goes on where it was.
# Tests: dev-5h, and the readers of readers-dev.txt if there is ../shared, read with the trigram of `english`.  It uses the current `samba-asr` (extras train and plot).
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: mixers.sh OUT [options of samba-asr bench mixers]" >&2 && exit 2; }
mkdir -p "$1" && out=$(realpath "$1") && shift
shared=$(realpath -m "$(dirname "${BASH_SOURCE[0]}")/../../../shared/data/LibriSpeech")
cd "$out"

if [ ! -f data/test.jsonl ]; then
  source=() && [ ! -d "$shared/train-5h" ] || source=(--source "$shared")
  samba-asr prepare mini_librispeech --out data "${source[@]}"
fi
tests=(data/dev.jsonl)
if [ -f "$shared/readers-dev.txt" ]; then
  [ -f data/readers.jsonl ] || python - "$shared" <<'END'
import sys
from pathlib import Path

from samba_asr.data.manifest import write_manifest
from samba_asr.data.readers import read_librispeech

shared = Path(sys.argv[1])
wanted = set((shared / "readers-dev.txt").read_text().split())
write_manifest(Path("data/readers.jsonl"), [u for u in read_librispeech(shared / "unlabelled-1h") if u.speaker in wanted])
END
  tests+=(data/readers.jsonl)
fi
budget=(--steps 2000)
case " $* " in *" --steps "* | *" --minutes "*) budget=() ;; esac
# What learns most in so short a run (egs/mini_librispeech/RESULTS.md, "The ladder"): phones, two wide layers, and no masks, speeds
# or dropout.  Pieces of words would not leave the stage of blanks.
box=$(python -c 'import samba_asr; print(samba_asr.__path__[0])')/box/english
samba-asr bench mixers --out runs --threads 1 --lexicon "$box/lexicon.txt" "${budget[@]}" "$@" --test "${tests[@]}" \
  --config model/tiny train/cpu mini_librispeech phones model.layers=2 model.d_model=144 "model.self_conditioning=[1]" \
  model.decoder.layers=0 loss.decoder=0 loss.cr_ctc=0 model.dropout=0 augment.time_masks=0 augment.freq_masks=0 "augment.speed=[1.0]" \
  "data.train=[data/train.jsonl]" "data.valid=[data/dev.jsonl]" data.batch_seconds=30 train.dtype=float32 train.easy_epochs=1 \
  train.valid_every=4 optim.lr=2e-3 optim.warmup=150 decode.search.method=beam decode.search.beam=64 decode.search.prune=7 \
  decode.lm="$box/lm.ngram" decode.lm.weight=0.6 decode.lm.word_bonus=1
