#!/usr/bin/env bash
# The bench of all mixers on five hours of read speech: about 1 M parameters, 2,000 steps, two seeds; 16 runs of an hour or so on a core.
#   egs/bench/mixers.sh OUT [--mixers NAME...] [--steps N | --minutes M] [--seeds S...] [key=value ...]
# OUT gets data/, a folder for each run, mixers.md, results.json and mixers.png.  Killed or given more mixers, it goes on where it was.
# Tests: dev-5h, and the readers of readers-dev.txt if there is ../shared.  It uses the current `samba-asr` (extras train and plot).
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
samba-asr bench mixers --out runs --threads 1 "${budget[@]}" "$@" --test "${tests[@]}" --config model/tiny train/cpu mini_librispeech \
  model.self_conditioning=[2] "data.train=[data/train.jsonl]" "data.valid=[data/dev.jsonl]" data.batch_seconds=20 train.dtype=float32
