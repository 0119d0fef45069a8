#!/usr/bin/env bash
# Stands in for llmft where a test is about what the scripts do, not about training: it keeps the contract that they rely
# on (docs/slurm.md) and can be told to fail. It needs no MPI: Slurm's variables say which rank this is.
#   FAKE_INFO=single      every rank believes to be alone, as with the wrong PMI
#   FAKE_INFO_UNTIL=FILE  'info' ends when there is this file, and signals kill it; FILE.waiting says that it has begun
#   FAKE_FAIL=PATTERN     'train' exits with 3 when the output folder's name matches
#   FAKE_UNTIL=FILE       'train' ends when there is this file; SIGUSR1 and SIGTERM end it with a checkpoint
#   FAKE_DEAF=1           'train' ignores these signals; OUTPUT/heard says that SIGUSR1 came
#   FAKE_DIE=1            'train': the last rank kills itself
rank=${SLURM_PROCID:?} ranks=${SLURM_STEP_NUM_TASKS:?}
command=$1
shift

wait_for() {
  while [ -n "$1" ] && [ ! -e "$1" ]; do sleep 0.1; done
}

info() {
  [ -z "${FAKE_INFO_UNTIL:-}" ] || : >"$FAKE_INFO_UNTIL.waiting"
  wait_for "${FAKE_INFO_UNTIL:-}"
  [ "${FAKE_INFO:-}" = single ] && rank=0
  echo "rank $rank: host $(hostname), GPUs ${CUDA_VISIBLE_DEVICES:-none}, fence $SLURM_PMIX_FENCE"
}

stop() {
  if [ "$rank" = 0 ]; then
    echo "stopped by a signal after step 1" >"$output/requeue"
  fi
  exit 0
}

train() {
  local output='' results='' resume='' fails=''
  while [ $# -gt 0 ]; do
    case $1 in
      --output) output=$2 ;;
      --results) results=$2 ;;
      --resume) resume=yes ;;
    esac
    shift
  done
  [ "$resume" = yes ] || exit 4
  mkdir -p "$output"
  # shellcheck disable=SC2254  # a pattern
  case ${output##*/} in ${FAKE_FAIL:-}) fails=yes ;; esac
  # a checkpoint takes all ranks: with one that fails there is none, though Slurm sends SIGTERM to the others
  if [ -n "${FAKE_DEAF:-}$fails" ]; then trap '' USR1 TERM; else trap stop USR1 TERM; fi
  if [ -n "${FAKE_DEAF:-}" ]; then trap ': >"$output/heard"' USR1; fi
  echo "rank $rank of $ranks on $(hostname), GPUs ${CUDA_VISIBLE_DEVICES:-none}" >>"$output/ranks"
  if [ -n "${FAKE_DIE:-}" ] && [ "$((rank + 1))" = "$ranks" ]; then kill -KILL $$; fi
  wait_for "${FAKE_UNTIL:-}"
  [ -z "$fails" ] || exit 3
  if [ "$rank" = 0 ]; then
    printf '{\n  "finished": true\n}\n' >"$output/run.json"
    mkdir -p "${results%/*}"
    echo "${output##*/}" >>"$results"
  fi
}

"$command" "$@"
