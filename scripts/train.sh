#!/usr/bin/env bash
# Trains a codec. Without arguments it trains the starter experiment on free recordings. Arguments are overrides of
# configs/train.yaml:
#   bash scripts/train.sh data=folder data.root=/your/audio name=mine
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec .venv/bin/python -m scripts.train "$@"
