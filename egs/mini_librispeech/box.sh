#!/usr/bin/env bash
# Train the shipped English model from scratch: run.sh's model, then phones, more speech, CTC-CRF, and a teacher.
#   egs/mini_librispeech/box.sh [SHARE]      SHARE of the time: 1 for the model, 0.005 for a quick test of all steps (default: 1)
# It needs ../shared beside the checkout, 13 hours of two cores for training, and two more for synthesis.  Called again, it continues.
# The shipped model was not trained in one run: more data was added during training (RESULTS.md, runs B to L).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
share=${1:-1}
shared=../../../shared
[ -d "$shared/data/LibriSpeech" ] || { echo "error: $shared/data/LibriSpeech is not there: the speech that this trains on" >&2 && exit 1; }
source ../setup.sh train,lm,lexicon,label,tts
export OMP_NUM_THREADS=1

of() { awk "BEGIN { print $1 * $share }"; } # MINUTES: multiplied by the share

data() {
  [ -f data/train.jsonl ] || samba-asr prepare mini_librispeech --out data
  [ -f data/lj/train.jsonl ] || samba-asr prepare "$shared/data/LJSpeech-1.1" --upper --out data/lj
  [ -f data/tts_books/train.jsonl ] || samba-asr prepare "$shared/data/tts_books/manifest.jsonl" --out data/tts_books
  [ -f data/unlabelled/unlabelled-1h.jsonl ] ||
    samba-asr prepare "$shared/data/LibriSpeech/unlabelled-1h" --no-text --out data/unlabelled
  [ -f data/labelled.jsonl ] || OMP_NUM_THREADS=2 samba-asr augment label data/unlabelled/unlabelled-1h.jsonl --whisper --confidence 0.55 --out data/labelled.jsonl
  [ -f data/fsdd/test.jsonl ] || samba-asr prepare fsdd --source "$shared/data/fsdd" --out data/fsdd
  [ -f data/tts_digits/train.jsonl ] || samba-asr prepare "$shared/data/tts_digits/manifest.jsonl" --out data/tts_digits
  # 900 frequent words, one at a time: books have no utterance of one word
  [ -f data/words.txt ] || frequent 900 >data/words.txt
  samba-asr augment tts data/words.txt --words 1 3 --out data/words
  local shard
  for shard in 0/2 1/2; do
    samba-asr augment tts "$shared/data/text/lm_corpus.txt.xz" --voices "$shared/tools/tts/voices.npz" --speakers 3000 \
      --sentences "$(awk "BEGIN { print int(3300 * $share) + 2 }")" --words 5 30 --out data/spoken --shard "$shard" &
  done
  wait -n && wait -n
  more=,data/lj/train.jsonl,data/tts_books/train.jsonl,data/labelled.jsonl,data/spoken/manifest.0.jsonl,data/spoken/manifest.1.jsonl
  # shellcheck disable=SC2086  # manifests are words
  samba-asr augment teach data/train.jsonl ${more//,/ } --out data/teacher
}

frequent() { # N: the digits, and the N most frequent words of the books
  python - "$shared/data/text/lm_corpus.txt.xz" "$1" <<'END'
import collections, itertools, pathlib, sys
from samba_asr.text.lm import read_lines
lines = itertools.islice(read_lines([pathlib.Path(sys.argv[1])]), 300_000)
counts = collections.Counter(word for line in lines for word in line.split())
digits = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN".split()
print(*dict.fromkeys([*digits, *(word for word, _ in counts.most_common(int(sys.argv[2])))]), sep="\n")
END
}

with=()
phase() { # NAME MINUTES OPTION...: train exp/box/NAME, and make its model
  local exp=exp/box/$1
  [ ! -f "$exp/model/model.safetensors" ] || return 0
  echo "== $1 ==" >&2
  python -m torch.distributed.run --standalone --nproc-per-node 2 -m samba_asr.cli train --exp "$exp" "${@:3}" \
    "data.valid=[data/dev.jsonl]" train.max_minutes="$(of "$2")"
  samba-asr average --exp "$exp" --out "$exp/model" --last 1 --bfloat16 "${with[@]}"
}

language_model() {
  local lm=exp/box/lm
  [ -f $lm/lm.ngram ] || # 5 minutes
    samba-asr lm train "$shared/data/text/lm_corpus.txt.xz" --out $lm/lm.ngram --words 150000 --growth 0.02 --pruning 0.1
  [ -f $lm/words.lexicon.txt ] || samba-asr lm lexicon $lm/lm.ngram --out $lm/words.lexicon.txt
}

results() {
  local model=exp/box/english/model lm=exp/box/lm name ms
  export OMP_NUM_THREADS=2
  if [ ! -f $model/confidence.json ]; then
    samba-asr lm tune --model $model --data data/dev.jsonl --weights 0.8 0.9 1 1.1 --bonuses -1 0 1 --save \
      --set decode.search.beam=128 decode.search.prune=10 decode.runtime.overlap=0.5 decode.endpoint.confidence=0.65 \
      decode.lm=$lm/lm.ngram decode.lm.lexicon=$lm/words.lexicon.txt
    # A model trained for minutes may recognize no word at all.
    samba-asr calibrate --model $model --data data/dev.jsonl || [ "$share" != 1 ]
  fi
  for ms in null 640 320; do
    for name in dev test; do
      samba-asr decode --model $model --data data/$name.jsonl --out exp/box/decode/$name-$ms --record "$name-5h-$ms" decode.runtime.latency_ms=$ms
    done
    samba-asr decode --model $model --data data/fsdd/test.jsonl --out exp/box/decode/fsdd-$ms --record "fsdd-$ms" decode.runtime.latency_ms=$ms
  done
}

data
all="data.train=[data/train.jsonl$more]"
phase base 226 --config model/mini train/cpu mini_librispeech "data.train=[data/train.jsonl]"
phase phones 330 --init exp/box/base/model --new-tokenizer --config phones "$all" optim.lr=6e-4 optim.warmup=300 train.easy_epochs=0 augment.vocal_tract=0.1
phase crf 83 --init exp/box/phones/model --config crf "$all"
noisy=(model.dropout=0.2 augment.equalizer_db=6 augment.reverb_prob=0.2 "augment.rt60=[0.1,0.4]")
phase noisy 75 --init exp/box/crf/model --config crf "$all" optim.lr=3e-4 optim.warmup=100 "${noisy[@]}"
taught=(data.teacher=data/teacher loss.teacher=0.5)
phase taught 35 --init exp/box/noisy/model --config crf "$all" optim.lr=4e-4 optim.warmup=100 "${noisy[@]}" "${taught[@]}"
all="data.train=[data/train.jsonl$more,data/tts_digits/train.jsonl,data/words/manifest.jsonl]"
with=(--with exp/box/noisy/model) # average the first and the last model of fine-tuning
phase english 46 --init exp/box/taught/model --config crf "$all" optim.lr=3e-4 optim.warmup=50 "${noisy[@]}" "${taught[@]}" augment.narrow_prob=0.2
language_model
results
