#!/usr/bin/env bash
# Makes .venv with everything the project needs. Does nothing when that is done and pyproject.toml has not changed.
# `setup.sh evaluation` adds what `codec evaluate` needs, `setup.sh onnx` what `codec export --to onnx` needs,
# `setup.sh test` all that anything needs.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=${1:-}
wanted=$(sha256sum pyproject.toml | cut -d' ' -f1)
stamp=.venv/.ready
if [ -f "$stamp" ] && grep -qE "^$wanted${extras:+ ($extras|test)}( |\$)" "$stamp"; then
  exit 0
fi
python=${PYTHON:-python3}
if ! version=$("$python" -c 'import sys; print(sys.version.split()[0]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null); then
  echo "error: Python 3.11 or later is needed, $python is ${version:-not there}; name another with PYTHON=" >&2
  exit 1
fi
if [ ! -x .venv/bin/python ]; then
  echo "setting up .venv (once; torch is a few GB)" >&2
  "$python" -m venv .venv || { rm -rf .venv; echo "error: no venv could be made (on Debian: python3-venv)" >&2; exit 1; }
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}" >&2
grep -qsF "$wanted" "$stamp" || : > "$stamp"
echo "$wanted${extras:+ $extras}" >> "$stamp"
