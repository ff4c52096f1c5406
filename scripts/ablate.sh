#!/usr/bin/env bash
# Ablates the balancing strategies; by default eight strategies and three seeds, starting from the starter run. Arguments are
# overrides of configs/ablate.yaml:
#   bash scripts/ablate.sh name=mine 'strategies=[weighted_sum,encodec]' 'seeds=[0]' hydra/launcher=joblib
set -euo pipefail
cd "$(dirname "$0")/.."
extras=evaluation
case "$*" in
  *launcher=joblib*) extras+=,joblib ;;
  *launcher=submitit*) extras+=,submitit ;;
esac
bash scripts/setup.sh "$extras"
exec .venv/bin/python -m scripts.ablate "$@"
