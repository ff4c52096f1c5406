#!/usr/bin/env bash
# Decodes mutated files, 100 000 by default, and reports crashes, hangs and excessive memory:
#   bash scripts/fuzz.sh --cases 1000000 --seed 7
# --output FOLDER gets the files of failed cases, by default runs/fuzz.
set -euo pipefail
case " $* " in *" -h "* | *" --help "*) exec sed -n '2,/^set /s/^# \{0,1\}//p' "$0" ;; esac # the comment above
cd "$(dirname "$0")/.."
bash scripts/setup.sh
OMP_NUM_THREADS=1 exec .venv/bin/python -m scripts.fuzz.run "$@"
