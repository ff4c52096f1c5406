#!/usr/bin/env bash
# Trains a codec. Without arguments the starter experiment on free recordings; arguments are configuration overrides:
#   bash scripts/train.sh data=folder data.root=/your/audio name=mine
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec .venv/bin/python -m scripts.train "$@"
