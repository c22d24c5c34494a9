#!/usr/bin/env bash
# Transcribe an archive on all processors of this machine, or on a Ray cluster: one row of JSON for each file.
#   egs/archive/run.sh INPUT OUT [--workers N] [--gpus 0.25] [--format parquet] ...     more: --help
# INPUT: a folder, manifest or Parquet table, local or s3://...  Called again, it continues.
# On a cluster: RAY_ADDRESS=auto on a node of it; on Slurm or Kubernetes see README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ $# -ge 2 ] || [ "${1:-}" = --help ] || { echo "usage: egs/archive/run.sh INPUT OUT [--workers N] ...  (--help for all)" >&2 && exit 2; }
here=${OLDPWD:-$PWD}
source ../setup.sh ray
export OMP_NUM_THREADS=1 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
cd "$here"
[ "$1" = --help ] && exec python -m samba_asr.recipes.archive --help
exec python -m samba_asr.recipes.archive "$1" --out "$2" "${@:3}"
