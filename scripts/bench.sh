#!/usr/bin/env bash
# bash scripts/bench.sh [step]     a training step beside audiocraft's. The first run makes .peer, a second environment of
#                                  several GB, for audiocraft and what it needs.
# bash scripts/bench.sh balancers  a training step under each balancing strategy, beside that of weighted_sum.
# bash scripts/bench.sh coding     encoding and decoding, beside the packages encodec and transformers.
# bash scripts/bench.sh streaming  encoding and decoding as a stream, on one core.
# bash scripts/bench.sh startup    imports, the start of the codebooks, the first step.
# bash scripts/bench.sh data       how fast audio is read, beside how fast it is trained on.
# bash scripts/bench.sh growth     a step against batch, segment, books, losses and sub-discriminators, with a plot.
# bash scripts/bench.sh precision  losses of 200 steps in bfloat16 and in float32, over three seeds, with a plot.
# bash scripts/bench.sh all        all of these: about an hour and a half on two cores.
# Steps are timed in float32 and with the best precision of the machine; further arguments go to the benchmark. Tables are
# printed, and written as JSON to runs/bench/.
set -euo pipefail
cd "$(dirname "$0")/.."
what=step
case ${1:-} in step | balancers | coding | streaming | startup | data | growth | precision | all) what=$1 && shift ;; esac
mkdir -p runs/bench

bench() { # name, module, arguments: its figures go to runs/bench/NAME.json
  local name=$1
  shift
  .venv/bin/python -m "scripts.bench.$1" --json "runs/bench/$name.json" "${@:2}"
}

make_peer() {
  [ -f .peer/.ready ] && return
  "${PYTHON:-python3}" -m venv .peer
  .peer/bin/python -m pip install --quiet "torch<2.15" torchaudio einops numpy encodec julius flashy colorlog dora-search \
    treetable submitit tqdm
  .peer/bin/python -m pip install --quiet --no-deps audiocraft
  touch .peer/.ready
}

run() {
  case $1 in
    step)
      make_peer
      for precision in float32 auto; do
        bench "step-$precision" step step --precision "$precision" --peer .peer/bin/python "${@:2}"
      done
      ;;
    balancers)
      for precision in float32 auto; do
        bench "balancers-$precision" balancers --precision "$precision" "${@:2}"
      done
      ;;
    growth | precision) bench "$1" "$1" --plot "runs/bench/$1.svg" "${@:2}" ;;
    *) bench "$1" "$1" "${@:2}" ;;
  esac
}

# The peers of `coding` are there for the tests.
case $what in coding | all) bash scripts/setup.sh test ;; *) bash scripts/setup.sh ;; esac
if [ "$what" = all ]; then
  for each in step balancers coding streaming startup data growth precision; do run "$each"; done
else
  run "$what" "$@"
fi
