#!/usr/bin/env bash
# bash scripts/bench.sh [step]     training step compared with audiocraft's; the first call creates .peer, a second
#                                  environment of several GB with audiocraft
# bash scripts/bench.sh balancers  training step under each balancing strategy, compared with weighted_sum
# bash scripts/bench.sh coding     encoding and decoding, compared with the packages encodec and transformers
# bash scripts/bench.sh streaming  streaming encoding and decoding on one core
# bash scripts/bench.sh startup    imports, k-means initialization, first training step
# bash scripts/bench.sh data       reading of training audio
# bash scripts/bench.sh shards     waiting for audio from 1000 tar archives on a slow disk, which is simulated
# bash scripts/bench.sh parts      operations, weights and CPU time of networks, quantizers and discriminators
# bash scripts/bench.sh growth     training step against batch, segment, codebooks, losses, discriminators; with a plot
# bash scripts/bench.sh precision  losses of 200 steps in bfloat16 and float32 over three seeds; with a plot
# bash scripts/bench.sh all        everything: about 100 minutes on two cores
# Results are printed and written to runs/bench/*.json. Training steps are timed in float32 and in the best precision of the
# machine. More arguments go to the benchmark; .venv/bin/python -m scripts.bench.step --help lists those of step.
set -euo pipefail
case " $* " in *" -h "* | *" --help "*) exec sed -n '2,/^set /s/^# \{0,1\}//p' "$0" ;; esac # the comment above
cd "$(dirname "$0")/.."
what=step
case ${1:-} in
  step | balancers | coding | streaming | startup | data | shards | parts | growth | precision | all) what=$1 && shift ;;
  "" | -*) ;;
  *) echo "error: there is no benchmark $1; bash scripts/bench.sh --help lists them" >&2 && exit 1 ;;
esac
mkdir -p runs/bench

bench() { # name, module, arguments; writes runs/bench/NAME.json
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

# The test extra contains the packages that `coding` compares with.
case $what in coding | all) bash scripts/setup.sh test ;; *) bash scripts/setup.sh ;; esac
if [ "$what" = all ]; then
  for each in step balancers coding streaming startup data shards parts growth precision; do run "$each"; done
else
  run "$what" "$@"
fi
