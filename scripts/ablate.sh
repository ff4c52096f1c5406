#!/usr/bin/env bash
# Compares the balancing strategies; by default eight strategies and three seeds, starting from a trained SEANet, the run
# starter_seanet. Arguments are overrides of configs/ablate.yaml, --help explains them:
#   bash scripts/ablate.sh name=mine 'strategies=[weighted_sum,encodec]' 'seeds=[0]' hydra/launcher=joblib
set -euo pipefail
cd "$(dirname "$0")/.."
extras=evaluation
for argument in "$@"; do
  case $argument in
    -h | --help) exec cat scripts/help/ablate.txt ;; # before anything is installed
    hydra/launcher=joblib) extras+=,joblib ;;
    hydra/launcher=submitit*) extras+=,submitit ;;
  esac
done
bash scripts/setup.sh "$extras"
STARTED_AS="bash $0" exec .venv/bin/python -m scripts.ablate "$@"
