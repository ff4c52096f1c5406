#!/usr/bin/env bash
# Lint, types and the test suite. Further arguments go to pytest.
#   bash scripts/test.sh                 everything but tests marked long
#   bash scripts/test.sh --cov           the same with a table of coverage, a third slower
#   bash scripts/test.sh --fast          lint, types and the fast tests; the same as -m fast
#   bash scripts/test.sh -m long         full-size models and an hour of audio
#   bash scripts/test.sh --isa avx2      tests only, as on an x86 CPU without AVX-512 and bfloat16 units
#   bash scripts/test.sh --isa default   tests only, as on an x86 CPU without AVX2
#   bash scripts/test.sh --lowest        tests only, with the lowest versions in pyproject.toml; needs Python 3.11
# The pages of reports are also tested in Chromium. On a machine with apt-get, root installs it; elsewhere, without
# Chromium, these tests are skipped.
set -euo pipefail
case " $* " in *" -h "* | *" --help "*) exec sed -n '2,/^set /s/^# \{0,1\}//p' "$0" ;; esac # the comment above
cd "$(dirname "$0")/.."

lint=yes
lowest=no
while [ $# -gt 0 ]; do
  case $1 in
    --fast) set -- -m fast "${@:2}" && break ;;
    --lowest) lowest=yes lint=no ;;
    --isa)
      lint=no
      case ${2:-} in
        avx2) export ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 ;;
        default) export ATEN_CPU_CAPABILITY=default ;;
        *) echo "error: --isa is '${2:-}'; expected avx2 or default" >&2 && exit 1 ;;
      esac
      shift
      ;;
    *) break ;;
  esac
  shift
done

venv=.venv
if [ "$lowest" = yes ]; then
  venv=.venv-lowest
  mkdir -p "$venv"
  "${PYTHON:-python3}" -m scripts.lowest_versions > "$venv/constraints.txt"
  VENV=$venv PIP_CONSTRAINT=$venv/constraints.txt bash scripts/setup.sh test
else
  bash scripts/setup.sh test
fi
if [ "$lint" = yes ]; then
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  .venv/bin/mypy
fi
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 || true
fi
command -v chromium >/dev/null || echo "Chromium is missing: the browser tests are skipped"
# Old versions warn about the newer packages that they import, so warnings are no errors there.
[ "$lowest" = no ] || set -- -W default "$@"
# Two processes of one thread each: on tensors as small as the tests' a second thread only waits for the first.
export OMP_NUM_THREADS=1
# Compiled files halve the time of the imports in both, and in the processes that tests start.
unset PYTHONDONTWRITEBYTECODE
exec "$venv/bin/python" -m pytest -n 2 --dist worksteal "$@"
