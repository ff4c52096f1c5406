#!/usr/bin/env bash
# Lint, types and tests. Arguments go to pytest. The page of an ablation is also tested in Chromium, which root on a
# machine with apt-get installs; without it that test is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 || true
fi
command -v chromium >/dev/null || echo "no chromium here: the browser test of the ablation page is left out"
# Two processes of one thread each: on tensors as small as the tests' a second thread only waits for the first.
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
