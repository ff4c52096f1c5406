#!/usr/bin/env bash
# Times a training step beside audiocraft's, in float32 and with the best precision of the machine.
# The first run makes .peer, a second environment of several GB, for audiocraft and what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
if [ ! -f .peer/.ready ]; then
  "${PYTHON:-python3}" -m venv .peer
  .peer/bin/python -m pip install --quiet torch torchaudio einops numpy encodec julius flashy colorlog dora-search \
    treetable submitit tqdm
  .peer/bin/python -m pip install --quiet --no-deps audiocraft
  touch .peer/.ready
fi
for precision in float32 auto; do
  .venv/bin/python -m scripts.bench step --precision "$precision" --peer .peer/bin/python "$@"
done
