#!/usr/bin/env bash
# Ablates the balancing strategies, by default eight of them over three seeds from the starter's checkpoint. Arguments are
# configuration overrides:
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
