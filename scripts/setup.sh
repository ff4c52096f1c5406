#!/usr/bin/env bash
# Makes .venv with what the project needs. Does nothing if that is done and pyproject.toml has not changed.
#   bash scripts/setup.sh              training, encoding, decoding
#   bash scripts/setup.sh evaluation   also `codec evaluate`; needs a C compiler
#   bash scripts/setup.sh onnx         also `codec export --to onnx`
#   bash scripts/setup.sh tokens       also `codec tokenize --format parquet`
#   bash scripts/setup.sh tensorboard  also logger=tensorboard
#   bash scripts/setup.sh hugging-face  also data.HuggingFaceDataset
#   bash scripts/setup.sh joblib       also ablations with hydra/launcher=joblib; submitit for a SLURM cluster
#   bash scripts/setup.sh test         all of these, and what the tests need
# Several are separated by commas: evaluation,onnx.
# Environment variables:
#   TORCH=cpu|cuda   the build of torch; by default cuda where there is an NVIDIA driver, else cpu
#   PYTHON=...       the interpreter, by default python3; 3.11 or later
#   VENV=...         the folder of the environment, by default .venv
set -euo pipefail
case " $* " in *" -h "* | *" --help "*) exec sed -n '2,/^set /s/^# \{0,1\}//p' "$0" ;; esac # the comment above
cd "$(dirname "$0")/.."

cpu_wheels=https://download.pytorch.org/whl/cpu # PyTorch's own index of CPU builds for Linux
extras=${1:-}
venv=${VENV:-.venv}
python=${PYTHON:-python3}
stamp=$venv/.ready
known=$(sed -n '/^\[project.optional-dependencies\]/,/^$/s/^\([a-z0-9_-]*\) = \[.*/\1/p' pyproject.toml | tr '\n' ' ')
for extra in ${extras//,/ }; do
  case " $known" in
    *" $extra "*) ;;
    *) echo "error: there is no extra $extra; expected one or more of ${known% }, separated by commas" >&2 && exit 1 ;;
  esac
done
if [ $# -gt 1 ]; then
  echo "error: expected one argument, got $#: separate extras by commas, as in evaluation,onnx" >&2
  exit 1
fi
case ${TORCH:-} in
  "" | cpu | cuda) ;;
  *) echo "error: TORCH is '$TORCH'; expected cpu or cuda" >&2 && exit 1 ;;
esac

wanted=$(cksum < pyproject.toml | tr ' ' -)
is_ready() {
  build=$(cat "$venv/.torch" 2>/dev/null || true)
  [ "${TORCH:-$build}" = "$build" ] && grep -qsE "^$wanted${extras:+ ($extras|test)}( |\$)" "$stamp"
}
if is_ready; then exit 0; fi
# The environment of another checkout, such as the one that .venv of a git worktree links to.
owner=$(cd -P "$venv/.." 2>/dev/null && pwd || true)
if [ -e "$owner/pyproject.toml" ] && [ "$owner" != "$(pwd -P)" ]; then
  echo "error: $venv is not up to date and belongs to $owner, which would then import this folder instead:" \
    "run scripts/setup.sh there, or remove the link $venv for an environment of this folder's own" >&2
  exit 1
fi
check='import sys; print(sys.version.split()[0]); sys.exit(sys.version_info < (3, 11))'
if ! version=$("$python" -c "$check" 2>/dev/null); then
  echo "error: $python is ${version:-missing}; expected Python 3.11 or later. Name another one with PYTHON=" >&2
  exit 1
fi
if ! mkdir -p "$venv" 2>/dev/null || [ ! -w "$venv" ]; then
  echo "error: $venv is not up to date and cannot be written: run scripts/setup.sh as the owner of $(pwd -P)" >&2
  exit 1
fi
if command -v flock >/dev/null; then # two at once would mix their files
  exec 9> "$venv/.lock"
  if ! flock -n 9; then
    echo "waiting for another scripts/setup.sh that installs into $venv" >&2
    flock 9
    if is_ready; then exit 0; fi
  fi
fi
if [ ! -x "$venv/bin/python" ]; then
  if ! "$python" -m venv "$venv"; then
    rm -rf "$venv"
    echo "error: $python cannot make a virtual environment (Debian: apt install python3-venv)" >&2
    exit 1
  fi
fi

pip() { "$venv/bin/python" -m pip "$@" --disable-pip-version-check >&2; }

# torch and torchaudio in one call, since they must come from the same build. pip shows the progress of the download.
install_torch() {
  local requirements
  requirements=$(grep -oE '"torch(audio)?[<>=][^"]*"' pyproject.toml | tr -d '"')
  if [ "$build" = cpu ] && [ "$(uname -s)" = Linux ]; then
    if "$venv/bin/python" -c "import urllib.request as u; u.urlopen('$cpu_wheels/torch/', timeout=10)" 2>/dev/null; then
      echo "installing torch for CPUs: 0.2 GB to download (20 s at 100 Mbit/s), 0.7 GB on disk" >&2
      # shellcheck disable=SC2086 # one word a requirement
      pip install --index-url "$cpu_wheels" $requirements
      return
    fi
    echo "$cpu_wheels cannot be reached: installing the CUDA build from pip's usual index instead" >&2
  fi
  if [ "$(uname -s)" = Linux ]; then
    echo "installing torch with CUDA: 3 GB to download (4 minutes at 100 Mbit/s), 5.6 GB on disk" >&2
    [ "$build" = cpu ] || echo "TORCH=cpu installs the small build instead" >&2
  fi
  # shellcheck disable=SC2086
  pip install $requirements
}

wish=${TORCH:-$build}
if [ -z "$wish" ]; then
  if command -v nvidia-smi >/dev/null; then wish=cuda; else wish=cpu; fi
fi
if [ "$wish" != "$build" ]; then
  [ -z "${TORCH:-}" ] || [ ! -e "$stamp" ] || pip uninstall --quiet --yes torch torchaudio
  build=$wish
  install_torch
  echo "$build" > "$venv/.torch"
fi
echo "installing the other packages${extras:+ of [$extras]} into $venv: one or two minutes without output" >&2
pip install --quiet --editable ".${extras:+[$extras]}"
grep -qsF "$wanted" "$stamp" || : > "$stamp"
echo "$wanted${extras:+ $extras}" >> "$stamp"
