#!/usr/bin/env bash
# Train the shipped English model from nothing: CTC, then CTC-CRF, on 11 h of speech, a third of it synthetic.
#   egs/mini_librispeech/box.sh [SHARE]      SHARE of the work: 1 for the model, 0.005 for a quick test of all steps (default: 1)
# It needs ../shared beside the checkout.  Called again, it continues.  Synthesis takes an hour of two cores; training 9 minutes of an
# H200 (what the shipped model had; RESULTS.md, "Run N"), or by estimate 8 hours of two cores, on which it was not run whole.
# Readers of readers-dev.txt, every fifth speaker of speechocean762, dev-5h and test-5h are held out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
share=${1:-1}
shared=$(realpath ../../../shared)
[ -d "$shared/data/LibriSpeech" ] || { echo "error: $shared/data/LibriSpeech is not there: the speech that this trains on" >&2 && exit 1; }
source ../setup.sh train,lm,lexicon,tts
export OMP_NUM_THREADS=1

of() { awk "BEGIN { print int($1 * $share) + 2 }"; } # NUMBER: multiplied by the share

data() {
  [ -f data/train.jsonl ] || samba-asr prepare mini_librispeech --out data
  [ -f data/lj/train.jsonl ] || samba-asr prepare "$shared/data/LJSpeech-1.1" --upper --out data/lj
  [ -f data/tts_books/train.jsonl ] || samba-asr prepare "$shared/data/tts_books/manifest.jsonl" --out data/tts_books
  [ -f data/fsdd/test.jsonl ] || samba-asr prepare fsdd --source "$shared/data/fsdd" --out data/fsdd
  [ -f data/tts_digits/train.jsonl ] || samba-asr prepare "$shared/data/tts_digits/manifest.jsonl" --out data/tts_digits
  [ -f data/unlabelled/unlabelled-1h.jsonl ] || samba-asr prepare "$shared/data/LibriSpeech/unlabelled-1h" --out data/unlabelled
  [ -f data/so762/train.jsonl ] || samba-asr prepare "$shared/data/speechocean762" --out data/so762
  [ -f data/so762-dev.jsonl ] || python - "$shared/data/LibriSpeech/readers-dev.txt" <<'END'
import sys
from pathlib import Path

from samba_asr.data.manifest import read_manifest, write_manifest

held = set(Path(sys.argv[1]).read_text().split())
readers = read_manifest(Path("data/unlabelled/unlabelled-1h.jsonl"))
accents = read_manifest(Path("data/so762/train.jsonl"))
tested = set(sorted({u.speaker for u in accents})[::5])
write_manifest(Path("data/readers-train.jsonl"), [u for u in readers if u.speaker not in held])
write_manifest(Path("data/readers-dev.jsonl"), [u for u in readers if u.speaker in held])
write_manifest(Path("data/so762-train.jsonl"), [u for u in accents if u.speaker not in tested])
write_manifest(Path("data/so762-dev.jsonl"), [u for u in accents if u.speaker in tested])
END
  # Sentences of train-clean-100 by 127 voices that Whisper understands
  [ -f data/sentences.txt ] || xzcat "$shared/data/train_clean_100_text.txt.xz" | cut -d' ' -f2- | awk 'NF >= 5 && NF <= 26' >data/sentences.txt
  local shard
  for shard in 0/2 1/2; do
    samba-asr augment tts data/sentences.txt --sentences "$(of 1584)" --words 5 26 --seed 7 --voices "$shared/tools/tts/voices.npz" \
      --drawn "$shared/data/kokoro_voices.npz" --shard "$shard" --out data/voices &
  done
  wait -n && wait -n
}

language_model() {
  local lm=exp/box/lm
  # The books, without the lines that share eight words in a row with the readers of readers-dev.txt
  [ -f data/books.txt ] ||
    xzcat "$shared/data/text/lm_corpus.txt.xz" | awk 'NR == FNR { drop[$1]; next } !(FNR in drop)' "$shared/data/text/readers-dev-drop.txt" - >data/books.txt
  [ -f $lm/lm.ngram ] || # 5 minutes
    samba-asr lm train data/books.txt --out $lm/lm.ngram --words 150000 --growth 0.02 --pruning 0.1
  [ -f $lm/words.lexicon.txt ] || samba-asr lm lexicon $lm/lm.ngram --out $lm/words.lexicon.txt
  [ -f data/train_clean_100.txt ] || xzcat "$shared/data/train_clean_100_text.txt.xz" | cut -d' ' -f2- >data/train_clean_100.txt
  [ -f exp/box/mamba/model/lm.safetensors ] || # 2.6 minutes of an H200, which read half of the books
    samba-asr lm mamba data/books.txt data/train_clean_100.txt --exp exp/box/mamba --valid data/dev.jsonl --bfloat16 \
      --set lm.layers=4 lm.d_model=288 lm.lines=400000 lm.batch_units=32768 optim.lr=3e-3 optim.warmup=200 train.max_steps="$(of 3523)" \
      train.device=$device
}

sets=(train readers-train lj/train tts_books/train voices/manifest.0 voices/manifest.1 so762-train tts_digits/train fsdd/train)
printf -v sets ',data/%s.jsonl' "${sets[@]}"
common=("data.train=[${sets#,}]" "data.weights=[2,5,1,2,2,2,1,0.5,0.5]" "data.valid=[data/readers-dev.jsonl]" data.buckets=30
  model.d_model=224 model.layers=6 model.ffn_expand=4 model.subsampling_channels=32 "model.self_conditioning=[2,4]"
  model.mixer.d_state=32 model.mixer.headdim=32 model.mixer.a_max=1 model.decoder.layers=0 loss.decoder=0 model.dropout=0.2
  optim.weight_decay=0.05 train.ema=0.999 train.epochs=1000 train.valid_every=4 augment.noise_prob=0.3 "augment.noise_snr_db=[5,30]"
  augment.reverb_prob=0.3 "augment.rt60=[0.1,0.4]" augment.equalizer_db=9 augment.vocal_tract=0.15 augment.narrow_prob=0.1
  augment.channels="$shared/data/channels.npz" augment.channel_prob=0.4 augment.time_ratio=0.2)
start=(python -m torch.distributed.run --standalone --nproc-per-node 2 -m samba_asr.cli) # a process for each of two cores
processes=2 device=cpu
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  start=(samba-asr) processes=1 device=cuda
  common+=(data.workers=6)
fi

phase() { # NAME STEPS SECONDS OPTION...: train exp/box/NAME on SECONDS of speech a step, and make its model
  local exp=exp/box/$1
  [ ! -f "$exp/model/model.safetensors" ] || return 0
  echo "== $1 ==" >&2
  mkdir -p "$exp"
  [ -f "$exp/lexicon.txt" ] || cp exp/box/lm/words.lexicon.txt "$exp/lexicon.txt"
  "${start[@]}" train --exp "$exp" "${@:4}" "${common[@]}" train.max_steps="$(of "$2")" data.batch_seconds=$(($3 / processes)) train.device=$device
  samba-asr average --exp "$exp" --out "$exp/model" --last 1 --bfloat16 --no-calibrate
}

results() {
  local model=exp/box/crf/model lm=exp/box/lm name ms
  export OMP_NUM_THREADS=2
  if [ ! -f $model/confidence.json ]; then
    sed -i 's/^    gain: false/    gain: true/' $model/config.yaml # speech of any level: it works with any weights
    samba-asr lm tune --model $model --data data/dev.jsonl --weights 0.9 --bonuses 0 --save \
      --set decode.search.method=beam decode.search.beam=128 decode.search.prune=10 decode.runtime.overlap=0.25 decode.runtime.final_ms=5120 \
      decode.endpoint.confidence=0.745 decode.lm=$lm/lm.ngram decode.lm.neural=exp/box/mamba/model decode.lm.neural_weight=0.45
    # A model trained for minutes may recognize no word at all.
    samba-asr calibrate --model $model --data data/dev.jsonl || [ "$share" != 1 ]
  fi
  for ms in null 640 320; do
    for name in dev test readers-dev so762-dev fsdd/test; do
      samba-asr decode --model $model --data data/$name.jsonl --out "exp/box/decode/${name%/*}-$ms" --record "${name%/*}-$ms" decode.runtime.latency_ms=$ms
    done
  done
}

data
language_model
phase ctc 1984 300 --config mini_librispeech phones loss.cr_ctc=0.2 train.easy_epochs=1 optim.lr=2e-3 optim.warmup=300
phase crf 1177 400 --init exp/box/ctc/model --config mini_librispeech phones crf loss.cr_ctc=0.1 train.easy_epochs=0 optim.lr=1e-3 optim.warmup=100
results
