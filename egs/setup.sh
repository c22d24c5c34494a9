# Sourced by tests/run.sh and egs/*/run.sh:  source egs/setup.sh EXTRAS     (such as `train,plot`; see pyproject.toml)
#
# Makes the Python environment .venv in the checkout, installs samba_asr[EXTRAS] from the checkout into it, and puts it
# first in PATH.  Later calls skip the installation, unless pyproject.toml has changed.
#   SAMBA_ASR_VENV=DIR       use the environment in DIR as it is, instead
#   SAMBA_ASR_PYTHON=PYTHON  make .venv with this Python
#   SAMBA_ASR_TORCH=SPEC     install this torch first (torch==2.13.0)

samba_asr_find_python() {
  local python candidates=(python3.11 python3.12 python3.13 python3 python)
  if [ -n "${SAMBA_ASR_PYTHON:-}" ]; then candidates=("$SAMBA_ASR_PYTHON"); fi
  for python in "${candidates[@]}"; do
    # A name can exist and still not run (pyenv), be too old, or lack the module that Debian keeps in python3-venv.
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
  echo "error: samba_asr needs Python 3.11 to 3.13 with its venv module; found:" >&2
  for python in "${candidates[@]}"; do
    echo "  $python: $("$python" -c 'import sys; print(sys.version.split()[0]); import venv, ensurepip' 2>&1 | sed -n '1p;$p' |
      uniq | paste -s -d ' ' -)" >&2
  done
  echo "Install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), or name one: SAMBA_ASR_PYTHON=PATH" >&2
  return 1
}

# Install, and show what is downloaded: a line for each package, where pip would print a bar or nothing.
samba_asr_pip() {
  "$1/bin/python" -m pip install --progress-bar off "${@:2}" 2>&1 |
    while IFS= read -r line; do
      case $line in
        *Downloading* | *"Using cached"* | Installing* | Building* | *rror* | *ERROR*) echo "setup: ${line#"${line%%[![:space:]]*}"}" ;;
      esac
    done >&2
  return "${PIPESTATUS[0]}"
}

samba_asr_setup() {
  local extras=$1 root venv python stamp wanted
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  venv=${SAMBA_ASR_VENV:-$root/.venv}
  if [ -n "${SAMBA_ASR_VENV:-}" ]; then
    if ! (cd / && "$venv/bin/python" -c 'import samba_asr.conf'); then
      echo "error: SAMBA_ASR_VENV=$venv: samba_asr cannot be imported there (unset SAMBA_ASR_VENV to have an environment" \
        "made, or run $venv/bin/python -m pip install -e '$root[$extras]')" >&2
      return 1
    fi
    venv=$(cd "$venv" && pwd)
  else
    stamp=$venv/samba_asr.$extras.stamp # records the installed version and its source; written last
    wanted=$(printf '%s %s\n' "$root" "$(cksum <"$root/pyproject.toml")")
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
      if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(samba_asr_find_python) || return 1
        echo "setup: making $venv with $("$python" --version)" >&2
        "$python" -m venv --clear "$venv" || return 1
      fi
      # torch comes first, so that nothing else chooses its build
      echo "setup: installing torch and samba_asr[$extras] into $venv (some minutes the first time)" >&2
      samba_asr_pip "$venv" "${SAMBA_ASR_TORCH:-torch==2.13.0}" &&
        samba_asr_pip "$venv" -e "$root[$extras]" &&
        echo "$wanted" >"$stamp" || {
        echo "error: the installation failed, see pip's message above; run this again to continue" >&2
        return 1
      }
    fi
  fi
  export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
  unset PYTHONHOME
}

# Every training step frees its activations and allocates them again.  glibc returns large blocks to the kernel in between,
# so every page is faulted in again, which takes an eighth of a step (1.67 -> 1.47 s).  These settings keep the blocks.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0} MALLOC_TOP_PAD_=${MALLOC_TOP_PAD_:-268435456}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-100000000000}

samba_asr_setup "${1:?usage: source egs/setup.sh EXTRAS}"
