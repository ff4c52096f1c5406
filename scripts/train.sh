#!/usr/bin/env bash
# Trains a codec. Without arguments it trains the starter experiment on free recordings. Arguments are overrides of
# configs/train.yaml, --help explains them:
#   bash scripts/train.sh data=folder data.root=/your/audio name=mine
set -euo pipefail
cd "$(dirname "$0")/.."
for argument in "$@"; do
  case $argument in -h | --help) exec cat scripts/help/train.txt ;; esac # before anything is installed
done
bash scripts/setup.sh
STARTED_AS="bash $0" exec .venv/bin/python -m scripts.train "$@"
