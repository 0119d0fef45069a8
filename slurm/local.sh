# shellcheck shell=bash disable=SC2034
# What lib.sh does by srun and scontrol, done on one machine by mpirun: sourced after lib.sh, it takes its functions' places.
#
# What one would get wrong: nothing here puts a stopped study back into a queue. It ends, and started again it goes on.

load_site() { LLMFT_BINARY=${LLMFT_BINARY:-$ROOT/llmft} SITE=local; }

# An mpirun that fits the program: the bundle's beside it, else the one in PATH.
set_mpi_environment() {
  local beside
  beside=$(dirname -- "$LLMFT_BINARY")/mpirun
  LLMFT_MPIRUN=${LLMFT_MPIRUN:-$([ -x "$beside" ] && echo "$beside" || command -v mpirun || :)}
  # containers have no other user; ranks on CPUs may be more than these
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1} NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
}

# One rank for each GPU; without any, LLMFT_RANKS or one.
find_ranks() {
  need_program
  NODES=1 GPUS_PER_NODE=0
  if [ "${LLMFT_DEVICE:-auto}" != cpu ]; then GPUS_PER_NODE=$("$LLMFT_BINARY" info 2>/dev/null | grep -c '^rank 0: GPU ') || :; fi
  whole_number LLMFT_RANKS "${LLMFT_RANKS:-}" 1
  RANKS=${LLMFT_RANKS:-$GPUS_PER_NODE}
  [ "$RANKS" -ge 1 ] || RANKS=1
  RANKS_PER_NODE=$RANKS
  CPUS_PER_RANK=$(($(nproc) / RANKS))
  [ "$CPUS_PER_RANK" -ge 1 ] || CPUS_PER_RANK=1
}

preprocess_command() { echo "$LLMFT_BINARY preprocess --input data/OpenOrca --tokenizer $LLMFT_MODEL --output $1 --validation 0.01"; }

# As Slurm's ranks get SIGTERM by themselves, so must these.
on_end() {
  TERMINATED=yes SIGNALS=$((SIGNALS + 1))
  [ -z "$STEP_PID" ] || kill -TERM "$STEP_PID" 2>/dev/null || :
}
trap on_end TERM INT

run_ranks() { # RANKS COMMAND ARGS...: the exit code, 124 if LLMFT_BUDGET ended it
  local ranks=$1 rc=0 limit=() start=()
  shift
  if [ -n "${BUDGET:-}" ]; then
    [ "$(seconds_left)" -gt 0 ] || return 124
    limit=(timeout --kill-after=15 "$(seconds_left)")
  fi
  if [ -n "$LLMFT_MPIRUN" ]; then
    start=("$LLMFT_MPIRUN" --bind-to none -n "$ranks")
  elif [ "$ranks" != 1 ]; then
    fail "no mpirun beside $LLMFT_BINARY and none in PATH, which $ranks ranks need; install Open MPI, or set LLMFT_MPIRUN"
  fi
  ${limit[@]+"${limit[@]}"} ${start[@]+"${start[@]}"} "$LLMFT_BINARY" "$@" </dev/null &
  STEP_PID=$!
  wait_for "$STEP_PID" || rc=$?
  STEP_PID=
  return "$rc"
}

check_ranks() {
  local found
  found=$(run_ranks "$1" info) || fail "'$LLMFT_BINARY info' does not start on $1 rank(s)$([ -n "$LLMFT_MPIRUN" ] && echo " by $LLMFT_MPIRUN"); see above"
  printf '%s\n' "$found"
  found=$(sed -n 's/^rank \([0-9]*\): host.*/\1/p' <<<"$found" | sort -u | wc -l)
  [ "$found" = "$1" ] || fail "$LLMFT_MPIRUN started $1 processes that are not one MPI job of $1 ranks but $found: it is of another MPI than $LLMFT_BINARY; set LLMFT_MPIRUN"
}

stopped() { # stopped CODE OUTPUT
  [ "$1" != 124 ] || return 1
  [ -z "$TERMINATED" ] || { say "stopped; started again, it goes on" && exit 143; }
  if [ -n "$2" ] && [ -e "$2/requeue" ]; then requeue "$(head -n 1 "$2/requeue")"; fi
  return 1
}

requeue() {
  say "$1; started again, it goes on"
  exit 1
}
