#!/usr/bin/env bash
# Decodes mutated files, 100 000 by default, and reports crashes, hangs and excessive memory:
#   bash scripts/fuzz.sh --cases 1000000 --seed 7
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
OMP_NUM_THREADS=1 exec .venv/bin/python -m scripts.fuzz.run "$@"
