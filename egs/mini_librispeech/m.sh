#!/usr/bin/env bash
# Go on with run M: the English model on readers whom nobody tuned for (RESULTS.md, "Run M").
#   egs/mini_librispeech/m.sh MINUTES
# It begins with the weights in m/, trains on ../shared beside the checkout, and writes exp/m/model.  Called again, it continues.
# Two cores hear 5 to 20 hours of speech an hour.  Readers of readers-dev.txt and every fifth speaker of speechocean762 are held out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
minutes=${1:?usage: m.sh MINUTES}
shared=$(realpath ../../../shared)/data
[ -d "$shared/LibriSpeech" ] || { echo "error: $shared/LibriSpeech is not there: the speech that this trains on" >&2 && exit 1; }
source ../setup.sh train,lexicon
export OMP_NUM_THREADS=1

[ -f data/train.jsonl ] || samba-asr prepare mini_librispeech --out data
[ -f data/lj/train.jsonl ] || samba-asr prepare "$shared/LJSpeech-1.1" --upper --out data/lj
[ -f data/tts_books/train.jsonl ] || samba-asr prepare "$shared/tts_books/manifest.jsonl" --out data/tts_books
[ -f data/fsdd/train.jsonl ] || samba-asr prepare fsdd --source "$shared/fsdd" --out data/fsdd
[ -f data/tts_digits/train.jsonl ] || samba-asr prepare "$shared/tts_digits/manifest.jsonl" --out data/tts_digits
[ -f data/unlabelled/unlabelled-1h.jsonl ] || samba-asr prepare "$shared/LibriSpeech/unlabelled-1h" --out data/unlabelled
[ -f data/so762/train.jsonl ] || samba-asr prepare "$shared/speechocean762" --out data/so762
[ -f data/choose.jsonl ] || python - "$shared/LibriSpeech/readers-dev.txt" <<'END'
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
write_manifest(Path("data/choose.jsonl"), read_manifest(Path("data/dev.jsonl")) + read_manifest(Path("data/readers-dev.jsonl")))
END

box=../../samba_asr/box/english
mkdir -p exp/m/init
cp m/model.safetensors m/config.yaml $box/lexicon.txt exp/m/init
sets=(train readers-train lj/train tts_books/train so762-train tts_digits/train fsdd/train)
printf -v train ',data/%s.jsonl' "${sets[@]}"
python -m torch.distributed.run --standalone --nproc-per-node 2 -m samba_asr.cli train --exp exp/m/run --init exp/m/init --config crf \
  "data.train=[${train#,}]" "data.weights=[1,4,0.5,1,0.3,0.25,0.2]" "data.valid=[data/choose.jsonl]" data.batch_seconds=30 \
  loss.cr_ctc=0 loss.decoder=0 optim.lr=8e-4 optim.warmup=150 train.max_minutes="$minutes" train.valid_every=2 model.dropout=0.15 \
  augment.noise_prob=0.3 "augment.noise_snr_db=[5,30]" augment.reverb_prob=0.3 "augment.rt60=[0.1,0.4]" augment.equalizer_db=9 \
  augment.vocal_tract=0.15 augment.narrow_prob=0.1 augment.channels="$shared/channels.npz" augment.channel_prob=0.4
samba-asr average --exp exp/m/run --out exp/m/model --last 1 --bfloat16 --no-calibrate
for name in readers-dev dev; do
  samba-asr decode --model exp/m/model --data data/$name.jsonl --out exp/m/$name decode.search.method=beam decode.search.beam=128 \
    decode.search.prune=10 decode.lm=$box/lm.ngram decode.lm.lexicon=$box/lexicon.txt decode.lm.weight=0.9 decode.lm.word_bonus=0 \
    decode.endpoint.confidence=0
done
