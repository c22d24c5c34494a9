#!/usr/bin/env bash
# Ablations: small models from scratch (1.0 M parameters, phones), all with the same steps and the same test, with one change each.
# WER of dev-5h with the trigram and lexicon of the shipped model.
#   egs/mini_librispeech/ladder.sh [ROW...]       default: all rows, about 10 minutes of one core each; then a table and a picture
# Called again, it continues.  STEPS=N: N steps instead of 2000, in another folder.  For parallel rows, call it twice with other rows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
shared=../../../shared
steps=${STEPS:-2000}
exp=exp/ladder-$steps
rows=(base half mamba2 mamba longvq oneway deep wide characters pieces pieces8 biphones frames30 frames20 nomasks nospeed tract noise filter rooms nodropout dropout
  noema nomiddle crctc decoder longmemory fusion channels readers oftenreaders voices morevoices synthetic reallast labels pretrain masked
  diffusion diffusionfusion teacher crf all allhalf allcrf)
[ -d "$shared/data/LibriSpeech" ] || { echo "error: $shared/data/LibriSpeech is not there: the speech that this trains on" >&2 && exit 1; }
source ../setup.sh train,lm,lexicon,label,tts,plot
export OMP_NUM_THREADS=1

books=data/tts_books/train.jsonl
helped=(model.mixer.name=mamba model.mixer.d_state=16 model.layers=2 model.d_model=144 "model.self_conditioning=[1]" model.dropout=0
  augment.time_masks=0 augment.freq_masks=0 "augment.speed=[1.0]" "data.train=[data/train.jsonl,$books]")
sharpened=(--config crf optim.lr=1e-3 optim.warmup=50 train.easy_epochs=0 train.max_steps=$((steps / 2)))
pretrained=(train.max_steps=$((steps / 2))) # with optim.encoder_lr=5e-4 and no easy epochs nothing was learned (RESULTS.md)

options() { # ROW: its changed options
  case $1 in
  base | biphones) ;;
  half) echo train.max_steps=$((steps / 2)) ;;
  mamba2) echo model.mixer.name=mamba2 ;;
  mamba) echo model.mixer.name=mamba model.mixer.d_state=16 ;;
  longvq) echo model.mixer.name=longvq ;;
  oneway) echo model.mixer.name=mamba2 model.mixer.bidirectional=false ;;
  deep) echo model.layers=8 model.d_model=64 ;;
  wide) echo model.layers=2 model.d_model=144 model.self_conditioning=[1] ;;
  crctc) echo loss.cr_ctc=0.2 ;;
  nomasks) echo augment.time_masks=0 augment.freq_masks=0 ;;
  nospeed) echo "augment.speed=[1.0]" ;;
  nodropout) echo model.dropout=0 ;;
  dropout) echo model.dropout=0.2 ;;
  filter) echo augment.equalizer_db=6 ;;
  rooms) echo augment.reverb_prob=0.2 "augment.rt60=[0.1,0.4]" ;;
  tract) echo augment.vocal_tract=0.1 ;;
  noise) echo augment.noise_prob=0.5 ;;
  noema) echo train.ema=0 ;;
  nomiddle) echo "model.self_conditioning=[]" ;;
  frames30) echo model.features.hop=120 ;; # 7.5 ms a feature, 30 ms an encoder frame
  frames20) echo model.features.hop=80 ;;
  longmemory) echo model.mixer.a_max=1 ;; # Hydra's A = 1, as its authors have it
  fusion) echo model.fusion=true ;;
  channels) echo "augment.channels=$shared/data/channels.npz augment.channel_prob=0.5" ;;
  readers) echo "data.train=[data/train.jsonl,data/readers/train.jsonl]" ;;
  oftenreaders) echo "data.train=[data/train.jsonl,data/readers/train.jsonl] data.weights=[1,4]" ;;
  decoder) echo model.decoder.layers=1 loss.decoder=0.3 ;;
  voices) echo "data.train=[data/train.jsonl,$books]" ;;
  morevoices) echo "data.train=[data/train.jsonl,$books,$books,$books]" ;;
  synthetic) echo "data.train=[$books]" train.max_steps=$((steps / 2)) ;;
  reallast) echo --init "$exp/synthetic/model" train.easy_epochs=0 train.max_steps=$((steps / 2)) ;;
  labels) echo "data.train=[data/train.jsonl,data/labelled.jsonl]" ;;
  crf) echo "--init $exp/half/model ${sharpened[*]}" ;;
  pretrain) echo "--init-encoder $exp/pretraining/model ${pretrained[*]}" ;;
  masked | diffusion) echo "--init-encoder $exp/$1-pretraining/model ${pretrained[*]}" ;;
  diffusionfusion) echo "--init-encoder $exp/$1-pretraining/model ${pretrained[*]} model.fusion=true" ;;
  teacher) echo data.teacher=data/teacher loss.teacher=1 ;;
  characters) echo tokenizer.kind=char ;;
  pieces) echo tokenizer.kind=bpe ;;
  all) echo "${helped[*]}" ;; # all changes that improve such a short run
  allhalf) echo "${helped[*]}" train.max_steps=$((steps / 2)) ;;
  allcrf) echo "--init $exp/allhalf/model ${helped[*]} ${sharpened[*]}" ;;
  pieces8) echo tokenizer.kind=bpe model.subsampling=8 ;;
  *) echo "error: no row $1: ${rows[*]}" >&2 && return 1 ;;
  esac
}

common=(--config model/tiny train/cpu mini_librispeech phones model.decoder.layers=0 loss.decoder=0 loss.cr_ctc=0
  "model.self_conditioning=[2]" "data.train=[data/train.jsonl]" "data.valid=[data/dev.jsonl]" data.batch_seconds=30 train.easy_epochs=1
  train.valid_every=100 optim.lr=2e-3 optim.warmup=150 train.max_steps="$steps")

before() { # ROW: make its prerequisites
  case $1 in
  allcrf) row allhalf ;;
  voices | morevoices | synthetic | all*) [ -f $books ] || samba-asr prepare "$shared/data/tts_books/manifest.jsonl" --out data/tts_books ;;
  pretrain) pretraining pretraining best_rq ;;
  masked | diffusion) pretraining "$1-pretraining" "$1" ;;
  diffusionfusion) pretraining "$1-pretraining" diffusion model.fusion=true ;;
  labels)
    [ -f data/unlabelled/unlabelled-1h.jsonl ] ||
      samba-asr prepare "$shared/data/LibriSpeech/unlabelled-1h" --no-text --out data/unlabelled
    [ -f data/labelled.jsonl ] ||
      samba-asr augment label data/unlabelled/unlabelled-1h.jsonl --whisper --confidence 0.55 --out data/labelled.jsonl
    ;;
  readers | oftenreaders) readers ;;
  crf) row half ;;
  reallast) row synthetic ;;
  teacher) samba-asr augment teach data/train.jsonl --out data/teacher ;;
  esac
}

pretraining() { # FOLDER OBJECTIVE OPTIONS: half of the steps
  samba-asr pretrain --exp "$exp/$1" --config model/tiny train/cpu mini_librispeech "data.train=[data/train.jsonl]" data.batch_seconds=30 \
    optim.lr=2e-3 optim.warmup=150 train.max_steps=$((steps / 2)) pretrain.objective="$2" "${@:3}"
}

readers() { # 178 readers, one utterance each, with real transcripts; data/readers/dev.jsonl: 56 others, for choices
  [ ! -f data/readers/train.jsonl ] || return 0
  samba-asr prepare "$shared/data/LibriSpeech/unlabelled-1h" --out data/readers
  python - "$shared/data/LibriSpeech/readers-dev.txt" data/readers <<'END'
import sys
from pathlib import Path
from samba_asr.data.manifest import read_manifest, write_manifest
held, folder = set(Path(sys.argv[1]).read_text().split()), Path(sys.argv[2])
utterances = read_manifest(folder / "unlabelled-1h.jsonl")
for name, out in (("dev", True), ("train", False)):
    write_manifest(folder / f"{name}.jsonl", [u for u in utterances if (u.speaker in held) == out])
END
}

biphones() { # FOLDER: write its lexicon, where the 200 most frequent phones after a phone of the same word are units of their own
  [ -f "$1/lexicon.txt" ] || python - ../../samba_asr/box/english/lexicon.txt data/train.jsonl "$1/lexicon.txt" <<'END'
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from samba_asr.data.manifest import read_manifest
from samba_asr.text.lexicon import Lexicon
lexicon = Lexicon.read(sys.argv[1])
said = Counter(word for u in read_manifest(sys.argv[2]) for word in u.text.split())
pairs = Counter()
for word, count in said.items():
    for pair in pairwise(lexicon.get(word, [()])[0]):
        pairs[pair] += count
own = {pair for pair, _ in pairs.most_common(200)}
def units(phones):
    return [phones[0], *(f"{a}_{b}" if (a, b) in own else b for a, b in pairwise(phones))]
lines = (f"{word} {' '.join(units(phones))}\n" for word, some in lexicon.items() for phones in some)
Path(sys.argv[3]).write_text("".join(lines))
END
}

row() { # ROW: train it, and decode dev
  local folder=$exp/$1 changed
  changed=$(options "$1")
  [ ! -f "$folder/wer.txt" ] || return 0
  echo "== $1 ==" >&2
  before "$1"
  mkdir -p "$folder"
  # Use the pronunciations of the shipped model: predicting them takes minutes each time.
  case $1 in characters | pieces*) ;; biphones) biphones "$folder" ;; *) cp -n ../../samba_asr/box/english/lexicon.txt "$folder" ;; esac
  # shellcheck disable=SC2086  # options are words
  samba-asr train --exp "$folder" "${common[@]}" $changed
  samba-asr average --exp "$folder" --out "$folder/model" --last 1
  samba-asr decode --model "$folder/model" --data data/dev.jsonl --out "$folder/decode" decode.search.method=beam decode.search.beam=64 decode.search.prune=7 \
    decode.lm=../../samba_asr/box/english/lm.ngram decode.lm.weight=0.6 decode.lm.word_bonus=1 | tee "$folder/report.txt"
  grep -h -m 1 -o '^%WER [0-9.]*' "$folder/report.txt" >"$folder/wer.txt"
}

table() {
  local name folder
  echo "| row | changes | dev, trigram | from base, 95 % | greedy | CTC, nats a unit | hours an hour |"
  echo "|---|---|---|---|---|---|---|"
  for name in "${rows[@]}"; do
    folder=$exp/$name
    [ -f "$folder/wer.txt" ] || continue
    echo "| $name | $(options "$name") | $(cut -d' ' -f2 "$folder/wer.txt") | $(from_base "$folder") |" \
      "$(grep -o 'validation WER [0-9.]*' "$folder/log.txt" | tail -1 | cut -d' ' -f3) |" \
      "$(grep -o 'CTC loss [0-9.]*' "$folder/log.txt" | tail -1 | cut -d' ' -f3) |" \
      "$(grep -o '[0-9]* h/h' "$folder/log.txt" | sort -n | tail -5 | head -1 | cut -d' ' -f1) |"
  done
}

from_base() { # FOLDER: difference from the base with its interval, on the same bootstrap samples
  [ "$1" != "$exp/base" ] && [ -f "$exp/base/wer.txt" ] || return 0
  samba-asr score --ref data/dev.jsonl --hyp "$1/decode/hyp.txt" --baseline "$exp/base/decode/hyp.txt" |
    sed -n 's/^difference \([-+0-9.]*\), 95 % interval \[ \([^]]*\) \].*/\1 [\2]/p'
}

picture() { # TABLE PNG: draw the difference of each row from the base
  python - "$@" <<'END'
import re, sys
from pathlib import Path
from samba_asr import plot
line = re.compile(r"\| (\w+) \|.*\| ([-+\d.]+) \[([-+\d.]+), ([-+\d.]+)\] \|")
found = [(m[1], *map(float, m.groups()[1:])) for m in map(line.match, Path(sys.argv[1]).read_text().splitlines()) if m]
found = sorted((row for row in found if row[1] < 20), key=lambda row: -row[1])  # rows that learned nothing are not drawn
if not found:
    sys.exit()
names, far, low, high = zip(*found)
sheet = plot.figure(7, 1 + 0.24 * len(found))
axes = sheet.subplots()
bars = [[a - b for a, b in zip(far, low)], [b - a for a, b in zip(far, high)]]
axes.errorbar(far, names, xerr=bars, fmt="o", markersize=4, capsize=2)
axes.axvline(0, color="grey", linewidth=0.8)
axes.set_xlabel("WER against the base, points (95 %); left is better")
axes.grid(axis="x", alpha=0.3)
plot.save(sheet, Path(sys.argv[2]))
END
}

[ -f data/train.jsonl ] || samba-asr prepare mini_librispeech --out data
[ $# -gt 0 ] || set -- "${rows[@]}"
for name in "$@"; do row "$name"; done
table | tee "$exp/table.md"
picture "$exp/table.md" "$exp/ladder.png"
