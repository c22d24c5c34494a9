#!/usr/bin/env bash
# Self-pretraining against training from scratch, at equal numbers of steps, with 0.5 and 4.5 hours of labels ("Never train from scratch").
#   egs/mini_librispeech/spt.sh [HOURS-ROW...]      such as half-scratch half-masked all-diffusion; default: all; then a table
# HOURS: half (0.5 h: every ninth utterance of all readers) or all.  ROW: scratch (STEPS), scratch2 (2 STEPS), or an objective: STEPS of
# pretraining on all speech, without texts, then STEPS of training just as from scratch.  OBJECTIVE-slow: then the encoder learns at a
# quarter of the rate, without easy epochs.  Called again, it continues.  STEPS=N: in place of 2000.
# The model is the small one that learns most in a short run (ladder.sh): 2 layers of 144, no masks, speeds or dropout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
shared=$(realpath ../../../shared)/data
steps=${STEPS:-2000}
exp=exp/spt-$steps box=../../samba_asr/box/english
kinds=(scratch scratch2 best_rq masked causal diffusion best_rq-slow masked-slow causal-slow diffusion-slow)
[ -d "$shared/LibriSpeech" ] || { echo "error: $shared/LibriSpeech is not there: the speech that this trains on" >&2 && exit 1; }
source ../setup.sh train,lexicon
export OMP_NUM_THREADS=1

common=(--config model/tiny train/cpu mini_librispeech phones model.decoder.layers=0 loss.decoder=0 loss.cr_ctc=0 model.layers=2
  model.d_model=144 model.dropout=0 augment.time_masks=0 augment.freq_masks=0 "augment.speed=[1.0]" data.batch_seconds=30
  train.valid_every=100 optim.lr=2e-3 optim.warmup=$((steps / 12)))
tests=(dev readers-dev) # 3 and 56 readers

corpora() {
  [ -f data/train.jsonl ] || samba-asr prepare mini_librispeech --out data
  [ -f data/unlabelled/unlabelled-1h.jsonl ] || samba-asr prepare "$shared/LibriSpeech/unlabelled-1h" --out data/unlabelled
  [ -f data/so762/train.jsonl ] || samba-asr prepare "$shared/speechocean762" --out data/so762
  [ -f data/spt-half.jsonl ] || awk 'NR % 9 == 1' data/train.jsonl >data/spt-half.jsonl
  [ -f data/spt-readers-dev.jsonl ] || python - "$shared/LibriSpeech/readers-dev.txt" <<'END'
import sys
from pathlib import Path
from samba_asr.data.manifest import read_manifest, write_manifest
held = set(Path(sys.argv[1]).read_text().split())
readers = read_manifest(Path("data/unlabelled/unlabelled-1h.jsonl"))
write_manifest(Path("data/spt-readers-dev.jsonl"), [u for u in readers if u.speaker in held])
write_manifest(Path("data/spt-readers.jsonl"), [u for u in readers if u.speaker not in held])
END
}

pretrained() { # OBJECTIVE: make its encoder
  local folder=$exp/pretraining-$1
  [ ! -f "$folder/model/encoder.safetensors" ] || return 0
  samba-asr pretrain --exp "$folder" "${common[@]}" pretrain.objective="$1" train.max_steps="$steps" \
    "data.train=[data/train.jsonl,data/spt-readers.jsonl,data/so762/train.jsonl]" "data.valid=[data/spt-readers-dev.jsonl]"
}

row() { # HOURS-ROW: train it, and decode
  local hours=${1%%-*} kind=${1#*-} folder=$exp/$1 set changed
  [ ! -f "$folder/wer.txt" ] || return 0
  case $hours in half) set=data/spt-half.jsonl ;; all) set=data/train.jsonl ;; *) echo "error: $1: half-ROW or all-ROW" >&2 && return 1 ;; esac
  case $kind in
  scratch) changed="train.easy_epochs=1 train.max_steps=$steps" ;;
  scratch2) changed="train.easy_epochs=1 train.max_steps=$((2 * steps))" ;;
  *-slow) changed="--init-encoder $exp/pretraining-${kind%-slow}/model optim.encoder_lr=5e-4 train.max_steps=$steps" ;;
  *) changed="--init-encoder $exp/pretraining-$kind/model train.easy_epochs=1 train.max_steps=$steps" ;;
  esac
  echo "== $1 ==" >&2
  case $kind in scratch*) ;; *) pretrained "${kind%-slow}" ;; esac
  mkdir -p "$folder"
  cp -n $box/lexicon.txt "$folder" # predicting pronunciations takes minutes
  # shellcheck disable=SC2086  # options are words
  samba-asr train --exp "$folder" "${common[@]}" "model.self_conditioning=[1]" "data.train=[$set]" "data.valid=[data/dev.jsonl]" \
    train.easy_epochs=0 $changed
  samba-asr average --exp "$folder" --out "$folder/model" --last 1 --no-calibrate
  for name in "${tests[@]}"; do
    data=data/$name.jsonl
    [ "$name" = dev ] || data=data/spt-$name.jsonl
    samba-asr decode --model "$folder/model" --data "$data" --out "$folder/$name" decode.search.method=beam decode.search.beam=64 \
      decode.search.prune=7 decode.lm=$box/lm.ngram decode.lm.weight=0.6 decode.lm.word_bonus=1 | grep -m 1 -o '^%WER [0-9.]*' | cut -d' ' -f2
  done | tee "$folder/wer.part"
  mv "$folder/wer.part" "$folder/wer.txt"
}

table() {
  local hours kind folder
  echo "| labels | before | dev, 3 readers | 56 readers | CTC loss on dev, nats a unit |"
  echo "|---|---|---|---|---|"
  for hours in half all; do
    for kind in "${kinds[@]}"; do
      folder=$exp/$hours-$kind
      [ ! -f "$folder/wer.txt" ] || echo "| $hours | $kind | $(paste -s -d'|' "$folder/wer.txt" | sed 's/|/ | /') |" \
        "$(grep -o 'CTC loss [0-9.]*' "$folder/log.txt" | tail -1 | cut -d' ' -f3) |"
    done
  done
}

corpora
if [ $# -eq 0 ]; then
  for hours in half all; do for kind in "${kinds[@]}"; do set -- "$@" "$hours-$kind"; done; done
fi
for name in "$@"; do row "$name"; done
table | tee "$exp/table.md"
