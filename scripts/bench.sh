#!/usr/bin/env bash
# bash scripts/bench.sh [step]       a training step beside audiocraft's. The first run makes .peer, a second environment
#                                    of several GB, for audiocraft and what it needs.
# bash scripts/bench.sh balancers    a training step under each balancing strategy, beside that of weighted_sum.
# bash scripts/bench.sh streaming    encoding and decoding as a stream, on one core.
# The first two in float32 and with the best precision of the machine; further arguments go to the benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
what=step
case ${1:-} in step | balancers | streaming) what=$1 && shift ;; esac
bash scripts/setup.sh
if [ "$what" = balancers ]; then
  for precision in float32 auto; do
    .venv/bin/python -m scripts.bench_balancers --precision "$precision" "$@"
  done
  exit
fi
if [ "$what" = streaming ]; then
  OMP_NUM_THREADS=1 exec .venv/bin/python -m scripts.bench_streaming "$@"
fi
if [ ! -f .peer/.ready ]; then
  "${PYTHON:-python3}" -m venv .peer
  .peer/bin/python -m pip install --quiet "torch<2.15" torchaudio einops numpy encodec julius flashy colorlog dora-search \
    treetable submitit tqdm
  .peer/bin/python -m pip install --quiet --no-deps audiocraft
  touch .peer/.ready
fi
for precision in float32 auto; do
  .venv/bin/python -m scripts.bench step --precision "$precision" --peer .peer/bin/python "$@"
done
