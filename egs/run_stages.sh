# Sourced by egs/*/run.sh, which sets `corpus`, `configs`, `data`, `tests` and `decodings` first:
#
#   corpus     recipe of `samba-asr prepare`
#   configs    array: configurations of training, later over earlier
#   data       folder of the manifests
#   tests      array: the sets to decode
#   processes  number of training processes, each on its share of the cores, or on its own GPU (default: 1)
#   average    array: options of `samba-asr average` that choose checkpoints (default: the best)
#   decodings  array: CONFIG:LATENCY, a name under conf/decode and the latency in ms, or `offline`;
#              CONFIG `lm` stands for the settings that stage 4 found, and is skipped without text
#   lm_text    text for a language model (default: none)
#   steps      training steps that the recipe's results need: fewer, on a slow machine, get a warning (default: 0)
#   extras     extras of pyproject.toml that the recipe needs (default: train)
#
# It reads the arguments of run.sh, sets up the environment, and defines `run_stages`.  Stages: 0 prepare, 1 tokenizer,
# 2 train (after pretraining, if asked for), 3 average, 4 language model, 5 decode, 6 score: a table.  A recipe may read its own options
# by a function `recipe_option`.

stage=0 stop_stage=6 exp=exp/main prepare_options=() overrides=() init=() more= speech= pretrain= shards= restarts=0 chosen=()

usage() {
  cat >&2 <<END
usage: run.sh [--stage N] [--stop-stage M] [--exp DIR] [--source DIR] [--processes N] [--restarts N]
              [--shards DIR] [--init DIR] [--more FILE]... [--pretrain MINUTES] [--speech FILE]... [--lm-text FILE] [--decode CONFIG:LATENCY]...
              [--config NAME]... [key=value]...
  stages: 0 prepare, 1 tokenizer, 2 train, 3 average, 4 language model, 5 decode, 6 score (default: all)
  --exp DIR      folder of the run (default: $exp)
  --source DIR   folder of the corpus
  --processes N  train with N processes (torchrun), each on its share of the cores, or on its own GPU (default: $processes)
  --restarts N   start all processes again, up to N times, if one of them dies; they continue from the last save (default: 0)
  --shards DIR   copy the training speech into tar shards there, and train from these
  --init DIR     start with the weights and the tokenizer of this model folder
  --more FILE    another training manifest, such as one by samba-asr augment
  --pretrain MINUTES  first pretrain the encoder on speech without texts
  --speech FILE  another manifest for pretraining, which needs no texts
  --lm-text FILE text for an n-gram, one sentence a line, .gz .xz .bz2 or plain (default: ${lm_text:-none})
  --decode CONFIG:LATENCY  decode so, such as greedy:offline or rescore:640 (default: ${decodings[*]})
  --config NAME  another configuration of training, over ${configs[*]}: a YAML file, or a name under conf/
  key=value      settings that override these, such as optim.lr=0.001; decode.* also applies to stages 4 and 5
END
}

fail() {
  echo "error: $1" >&2
  usage
  exit 2
}

# Relative paths refer to the folder from which run.sh was called.
path() { case $1 in /*) echo "$1" ;; *) echo "$OLDPWD/$1" ;; esac }

number() {
  case $2 in [0-6]) ;; *) fail "$1 ${2:-(nothing)}: a stage is a number from 0 to 6" ;; esac
}

count() {
  case $2 in *[!0-9]* | 0* | "") fail "$1 ${2:-(nothing)}: not a whole number of 1 or more" ;; esac
}

parse_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage && exit ;;
      --stage | --stop-stage | --exp | --source | --processes | --restarts | --shards | --init | --more | --pretrain | --speech | --lm-text | --decode | --config)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
          --stage) number "$1" "$2" && stage=$2 ;;
          --stop-stage) number "$1" "$2" && stop_stage=$2 ;;
          --exp) exp=$(path "$2") ;;
          --source) prepare_options+=(--source "$(path "$2")") ;;
          --init) init=(--init "$(path "$2")") ;;
          --more) more+=,$(path "$2") ;;
          --speech) speech+=,$(path "$2") ;;
          --pretrain) count "$1" "$2" && pretrain=$2 ;;
          --decode)
            case $2 in *:offline | *:[1-9]*) chosen+=("$2") ;; *) fail "--decode $2: give CONFIG:LATENCY, such as greedy:640" ;; esac
            ;;
          --lm-text) lm_text=$(path "$2") ;;
          --processes) count "$1" "$2" && processes=$2 ;;
          --restarts) count "$1" "$2" && restarts=$2 ;;
          --shards) shards=$(path "$2") ;;
          --config) if [ -f "$(path "$2")" ]; then configs+=("$(path "$2")"); else configs+=("$2"); fi ;;
        esac
        shift 2
        ;;
      -*)
        if declare -F recipe_option >/dev/null && [ $# -ge 2 ] && recipe_option "$1" "$2"; then shift 2; else
          fail "unknown option $1"
        fi
        ;;
      decode.block=* | decode.runtime.latency_ms=*)
        fail "$1: the recipe decodes at several latencies; for another one use samba-asr decode" ;;
      *=*) overrides+=("$1") && shift ;;
      *) fail "$1: neither an option nor key=value" ;;
    esac
  done
  [ ${#chosen[@]} -eq 0 ] || decodings=("${chosen[@]}")
  [ -z "$pretrain" ] || [ ${#init[@]} -eq 0 ] || fail "--pretrain and --init both give an encoder: use one of them"
  [ -n "$pretrain" ] || [ -z "$speech" ] || fail "--speech needs --pretrain"
  [ "$stage" -le "$stop_stage" ] || fail "--stage $stage is after --stop-stage $stop_stage"
}

wanted() { [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ] && echo "== stage $1: $2 ==" >&2; }

# Run samba-asr with as many processes as the first argument says.
by() {
  local command=(samba-asr)
  if [ "$1" -gt 1 ]; then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun would set it too, with a banner
    # Processes that are started again need a new store: in the old one they find the addresses of the dead (torch 2.13, gloo).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    command=(python -m torch.distributed.run --standalone --nproc-per-node "$1" --max-restarts "$restarts" -m samba_asr.cli)
  fi
  "${command[@]}" "${@:2}"
}

# First argument: number of processes.
train() {
  by "$1" train --exp "$exp" "${init[@]}" --config "${configs[@]}" \
    "data.train=[$speech_data$more]" "data.valid=[$data/$valid.jsonl]" "${overrides[@]}" "${@:2}"
}

# Pretrain on speech without texts; training starts with the result.
pretrain() {
  by "$processes" pretrain --exp "$exp/pretrain" --config "${configs[@]}" \
    "data.train=[$speech_data$more$speech]" "data.valid=[$data/$valid.jsonl]" "${overrides[@]}" \
    train.easy_epochs=0 train.epochs=1000 train.max_minutes="$pretrain"
  init=(--init-encoder "$exp/pretrain/model")
}

# Train an n-gram, for a phone model also the pronunciations of its words, and tune the weights.
language_model() {
  local lm=$exp/model/lm.ngram lexicon=()
  if [ ! -f "$lm" ]; then samba-asr lm train "$lm_text" --out "$lm" "${lm_options[@]}"; fi
  if [ -f "$exp/model/lexicon.txt" ]; then
    if [ ! -f "$exp/model/words.lexicon.txt" ]; then samba-asr lm lexicon "$lm" --out "$exp/model/words.lexicon.txt"; fi
    lexicon=(decode.lm.lexicon=words.lexicon.txt)
  fi
  samba-asr lm tune --model "$exp/model" --data "$data/$valid.jsonl" --save \
    --set decode.lm=lm.ngram "${lexicon[@]}" decode.search.beam=128 "$@"
}

# Warn if training was too short.
enough() {
  local done
  done=$(sed -n 's/.*done: \([0-9]*\) steps.*/\1/p' "$exp/log.txt" | tail -n 1)
  if [ "${done:-0}" -lt "$steps" ]; then
    echo "warning: only ${done:-0} steps were done, and the results of RESULTS.md need about $steps: this machine is slow or busy." \
      "Expect more errors; train.max_minutes=N gives it more time, and the same command continues" >&2
  fi
}

# Print a row of the table: set, settings, latency, WER, interval; the lines of score's output are in the file.
row() {
  awk -v set="$1" -v config="$2" -v latency="$3" '
    /^%WER/ { wer = $2 } /^95 % interval/ { low = $5; high = $6; sub(",", "", low) }
    END { printf "%-12s %-10s %-10s %8s   [ %s, %s ]\n", set, config, latency, wer, low, high }' "$4"
}

run_stages() {
  local speech_data=$data/train.jsonl test decoding config latency ms out setting settings=() with table= model
  for setting in "${overrides[@]}"; do case $setting in decode.*) settings+=("$setting") ;; esac; done

  if wanted 0 prepare; then
    samba-asr prepare "$corpus" --out "$data" "${prepare_options[@]}"
    if [ -n "$shards" ] && [ ! -f "$shards/manifest.jsonl" ]; then
      samba-asr shard "$data/train.jsonl" --out "$shards" || [ -f "$shards/manifest.jsonl" ] # it names what it leaves out
    fi
  fi
  if [ -n "$shards" ]; then speech_data=$shards/manifest.jsonl; fi
  # With 0 epochs, training only makes the tokenizer, and reports wrong settings now.
  if wanted 1 tokenizer; then train 1 train.epochs=0; fi
  if wanted 2 train; then
    if [ -n "$pretrain" ]; then pretrain; fi
    train "$processes"
    enough
  fi
  if wanted 3 average; then samba-asr average --exp "$exp" --out "$exp/model" --language English "${average[@]}"; fi
  if [ -n "$lm_text" ] && wanted 4 "language model"; then language_model "${settings[@]}"; fi
  for test in "${tests[@]}"; do
    for decoding in "${decodings[@]}"; do
      config=${decoding%:*} latency=${decoding#*:}
      ms=${latency/offline/null}
      [ "$config" != lm ] || [ -n "$lm_text" ] || continue
      with=(--config "decode/$config")
      [ "$config" != lm ] || with=() # they are the model's own
      out=$exp/decode/$test-$config-$latency
      if wanted 5 "decode $test, $config, $latency"; then
        mkdir -p "$out"
        samba-asr decode --model "$exp/model" --data "$data/$test.jsonl" --out "$out" --record "$test-$config-$latency" \
          "${with[@]}" "decode.runtime.latency_ms=$ms" "${settings[@]}" >"$out/decode.txt" ||
          { cat "$out/decode.txt" >&2 && return 1; }
      fi
      if wanted 6 "score $test, $config, $latency"; then
        samba-asr score "$data/$test.jsonl" "$out/hyp.txt" >"$out/score.txt"
        table+=$(row "$test" "$config" "$latency" "$out/score.txt")$'\n'
      fi
    done
  done
  if [ -n "$table" ]; then
    echo "== word errors, %; 95 % intervals; latency in ms ==" >&2
    printf '%-12s %-10s %-10s %8s   %s\n%s' set search latency WER interval "$table"
    model=$(cd "$exp/model" && pwd)
    echo "your model is $model; try: samba-asr transcribe --model $model FILE, or samba-asr mic --model $model" >&2
  fi
}

valid=${valid:-dev} processes=${processes:-1} lm_text=${lm_text:-} extras=${extras:-train} steps=${steps:-0}
declare -p lm_options >/dev/null 2>&1 || lm_options=()
declare -p average >/dev/null 2>&1 || average=()
parse_arguments "$@"
[ -z "$lm_text" ] || extras+=,lm
source ../setup.sh "$extras"
