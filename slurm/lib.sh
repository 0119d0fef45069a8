# shellcheck shell=bash
# Common code of the SLURM scripts, sourced from the repository's root inside a batch job.
#
# What one would get wrong: a job may end with 0 only when its work is done. When a signal stopped it (time limit,
# preemption), it is put back into the queue, and then waits to be ended: a job that leaves by itself within the
# grace time counts as completed and is not started again. docs/slurm.md lists the traps.
set -euo pipefail

say() { printf '[%(%F %T)T] %s\n' -1 "$*" >&2; }

fail() { # fail WHAT: wrong input or settings, nothing was started
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# --- settings ----------------------------------------------------------------------------------------------------

# The site's file: modules, MPI, network. It may set any LLMFT_ variable that the submitter has not set.
load_site() {
  local site=${LLMFT_CLUSTER:-${SLURM_CLUSTER_NAME:-generic}} file
  file=slurm/clusters/$site.env
  if [ ! -f "$file" ]; then
    [ -z "${LLMFT_CLUSTER:-}" ] ||
      fail "LLMFT_CLUSTER=$site: there is no $file; make it from slurm/clusters/generic.env or take one of: $(known_sites)"
    site=generic file=slurm/clusters/generic.env
  fi
  set +eu # 'module' and what it runs are not written for these
  # shellcheck source=slurm/clusters/generic.env
  . "$file"
  set -eu
  SITE=$site
  LLMFT_BINARY=${LLMFT_BINARY:-./llmft}
}

known_sites() {
  local file names=()
  for file in slurm/clusters/*.env; do
    file=${file##*/}
    names+=("${file%.env}")
  done
  echo "${names[*]}"
}

# What MPI and Slurm need on any site; values that are set already stay.
set_mpi_environment() {
  # Slurm's default PMIx fence spans one node only where a step has fewer nodes than TreeWidth, and MPI_Init fails now and then
  export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-ring}
  # ranks that wait give way to those that work: many times faster where ranks share cores, and harmless elsewhere
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
  # NVLink multicast needs rights that jobs often lack, and NCCL then fails at its start
  export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
  if [ -z "${LLMFT_MPI+x}" ]; then
    LLMFT_MPI=
    if srun --mpi=list 2>&1 | grep -qw pmix; then LLMFT_MPI=pmix; fi
  fi
}

# whole_number NAME VALUE LEAST: VALUE is one of at least LEAST; empty: not set
whole_number() {
  [ -n "$2" ] || return 0
  if [[ ! $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || [ "$2" -lt "$3" ]; then fail "$1: '$2' is no whole number from $3 on"; fi
}

# config_value KEY: a top-level scalar of the YAML file; empty if it has none
config_value() { sed -n "s/^$1:[[:space:]]*//p" "$LLMFT_CONFIG" | sed -e 's/[[:space:]]#.*$//' -e "s/[\"']//g" -e 's/[[:space:]]*$//' -e 1q; }

need_program() {
  [ -n "${LLMFT_CONTAINER:-}" ] || [ -x "$LLMFT_BINARY" ] ||
    fail "$LLMFT_BINARY: no such program; 'make' in the repository's root builds ./llmft (with the site's modules loaded: docs/slurm.md)"
}

need_config() { [ -f "$LLMFT_CONFIG" ] || fail "LLMFT_CONFIG: $LLMFT_CONFIG: no such file; inputs/llama32_1b.yaml is the default"; }

need_model() {
  [ -n "$LLMFT_MODEL" ] || fail "LLMFT_MODEL: not set, and $LLMFT_CONFIG has no 'model:'; give the folder of the model"
  [ -f "$LLMFT_MODEL/config.json" ] ||
    fail "LLMFT_MODEL: no model in $LLMFT_MODEL; get it with: hf download meta-llama/${LLMFT_MODEL##*/} --local-dir $LLMFT_MODEL (after 'hf auth login' and the access request on the model's page)"
}

need_data() {
  [ -n "$LLMFT_DATA" ] || fail "LLMFT_DATA: not set, and $LLMFT_CONFIG has no 'data:'; give the folder of the shards"
  [ -f "$LLMFT_DATA/manifest.json" ] || fail "LLMFT_DATA: no shards in $LLMFT_DATA; make them with: $(preprocess_command "$LLMFT_DATA")"
}

preprocess_command() { echo "LLMFT_DATA=$1 sbatch slurm/preprocess.sh"; }

# What every training script takes from its environment. Sets OPTIONS, RUNS, RESULTS.
# shellcheck disable=SC2034  # the scripts use them
training_settings() {
  LLMFT_CONFIG=${LLMFT_CONFIG:-inputs/llama32_1b.yaml}
  need_program
  need_config
  LLMFT_MODEL=${LLMFT_MODEL:-$(config_value model)}
  LLMFT_DATA=${LLMFT_DATA:-$(config_value data)}
  need_model
  whole_number LLMFT_THREADS "${LLMFT_THREADS:-}" 1
  RUNS=${LLMFT_RUNS:-runs}
  RESULTS=${LLMFT_RESULTS:-results}
  OPTIONS=(--config "$LLMFT_CONFIG" --model "$LLMFT_MODEL" --threads "${LLMFT_THREADS:-$CPUS_PER_RANK}"
    ${LLMFT_DEVICE:+--device "$LLMFT_DEVICE"})
}

# --- ranks -------------------------------------------------------------------------------------------------------

# How many ranks the allocation has room for: one for each GPU, and where it has none, one for each task.
# Sets NODES, RANKS_PER_NODE, RANKS, GPUS_PER_NODE, CPUS_PER_RANK.
find_ranks() {
  [ -n "${SLURM_JOB_ID:-}" ] || fail "this is not a SLURM job; submit the script: sbatch slurm/NAME.sh"
  NODES=${SLURM_JOB_NUM_NODES:-1}
  # the second form is what salloc sets: [TYPE:]NUMBER, and NUMBER(xNODES) below
  GPUS_PER_NODE=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-0}}
  GPUS_PER_NODE=${GPUS_PER_NODE##*:}
  [ "${LLMFT_DEVICE:-auto}" != cpu ] || GPUS_PER_NODE=0
  if [ "$GPUS_PER_NODE" -gt 0 ]; then
    [ "$NODES" = 1 ] || [ -z "${SLURM_GPUS:-}${SLURM_GPUS_PER_TASK:-}" ] ||
      fail "GPUs of several nodes must be asked for by node: use --gpus-per-node=N, not --gpus or --gpus-per-task, which may give nodes different numbers"
    RANKS_PER_NODE=$GPUS_PER_NODE
    RANKS=$((NODES * GPUS_PER_NODE))
  else
    RANKS_PER_NODE=${SLURM_TASKS_PER_NODE:-1}
    RANKS_PER_NODE=${RANKS_PER_NODE%%[!0-9]*}
    RANKS=${SLURM_NTASKS:-$((NODES * RANKS_PER_NODE))}
  fi
  if [ -n "${LLMFT_RANKS_PER_NODE:-}" ]; then
    whole_number LLMFT_RANKS_PER_NODE "$LLMFT_RANKS_PER_NODE" 1
    RANKS_PER_NODE=$LLMFT_RANKS_PER_NODE
    RANKS=$((NODES * RANKS_PER_NODE))
  fi
  CPUS_PER_RANK=${SLURM_CPUS_ON_NODE:-${SLURM_JOB_CPUS_PER_NODE:-1}}
  CPUS_PER_RANK=$((${CPUS_PER_RANK%%[!0-9]*} / RANKS_PER_NODE))
  [ "$CPUS_PER_RANK" -ge 1 ] || CPUS_PER_RANK=1
  # srun takes these as its own options, and they hold for the whole allocation, not for a step of some ranks
  unset SLURM_GPUS SLURM_GPUS_PER_NODE SLURM_GPUS_PER_TASK SLURM_GPUS_PER_SOCKET SLURM_GPU_BIND SLURM_CPUS_PER_GPU \
    SLURM_NTASKS_PER_GPU SLURM_CPUS_PER_TASK SLURM_NTASKS_PER_NODE SLURM_TRES_PER_TASK
}

# rank_counts: 1, 2, 4, ... up to all ranks of the allocation, and all of them
rank_counts() {
  local n counts=()
  for ((n = 1; n < RANKS; n *= 2)); do counts+=("$n"); done
  echo "${counts[*]} $RANKS"
}

# srun_options RANKS: sets SRUN to the command that starts so many, on as few nodes as they fit on
srun_options() {
  local ranks=$1 nodes per_node
  [ "$ranks" -le "$RANKS" ] || fail "$ranks ranks asked for, but the allocation has room for $RANKS ($NODES nodes, $RANKS_PER_NODE a node); ask sbatch for more nodes, GPUs or tasks"
  nodes=$(((ranks + RANKS_PER_NODE - 1) / RANKS_PER_NODE))
  per_node=$(((ranks + nodes - 1) / nodes))
  SRUN=(srun "--nodes=$nodes" "--ntasks=$ranks" "--ntasks-per-node=$per_node" --distribution=block "--cpus-per-task=$CPUS_PER_RANK"
    --kill-on-bad-exit=1) # a rank that dies leaves the others waiting for it for ever
  [ -z "$LLMFT_MPI" ] || SRUN+=("--mpi=$LLMFT_MPI")
  [ -z "${LLMFT_CPU_BIND-cores}" ] || SRUN+=("--cpu-bind=${LLMFT_CPU_BIND-cores}")
  # every rank sees all GPUs of its node and takes the one of its local number: peer-to-peer copies need that
  [ "$GPUS_PER_NODE" = 0 ] || SRUN+=("--gres=gpu:$((per_node < GPUS_PER_NODE ? per_node : GPUS_PER_NODE))")
  local words
  read -r -a words <<<"${LLMFT_SRUN_OPTIONS:-}"
  SRUN+=(${words[@]+"${words[@]}"})
  read -r -a words <<<"${LLMFT_CONTAINER:-}"
  SRUN+=(${words[@]+"${words[@]}"} "$LLMFT_BINARY")
}

# --- running -----------------------------------------------------------------------------------------------------

TOLD=       # the time limit is near: Slurm sent SIGUSR1 to this script (#SBATCH --signal=B:USR1@120)
TERMINATED= # Slurm is ending the job
SIGNALS=0   # how many of both came
STEP_PID=   # the srun that runs now

on_time_limit() { # tells the ranks: srun passes the signal on, and llmft train writes a checkpoint
  TOLD=yes SIGNALS=$((SIGNALS + 1))
  [ -z "$STEP_PID" ] || kill -USR1 "$STEP_PID" 2>/dev/null || :
}

trap on_time_limit USR1
trap 'TERMINATED=yes SIGNALS=$((SIGNALS + 1))' TERM

# The messages of srun and of the ranks, passed on. When srun says that a rank failed, it has told the others to end; those
# that catch SIGTERM and wait for the dead one would hold out until Slurm's KillWait, 30 seconds on most sites, is over.
# Ends with the exit code of the rank that failed, 0 if none did or a signal ended it.
watch_messages() {
  local line ending='' code=0
  trap '' USR1 TERM
  while IFS= read -r line || [ -n "$line" ]; do
    printf '%s\n' "$line" >&2
    [[ $line == "srun: error: "*" task"*:* ]] || continue
    if [[ $code = 0 && $line =~ "Exited with exit code "([0-9]+)$ ]]; then code=${BASH_REMATCH[1]}; fi
    [ -z "$ending" ] || continue
    ending=yes
    (sleep 3 && end_ranks) </dev/null >/dev/null 2>&1 &
  done
  [ -z "$ending" ] || kill -KILL $! 2>/dev/null || :
  return "$code"
}

# Kills the ranks, on their nodes: while a step is being ended Slurm takes no further signal for it, not even from scancel.
# listpids has a number as step and as rank for these, and -1 as pid for what has not started.
end_ranks() {
  # shellcheck disable=SC2016  # for the shells on the nodes
  srun --overlap "--nodes=$NODES" "--ntasks=$NODES" --ntasks-per-node=1 --mem=0 --mpi=none bash -c '
    scontrol listpids "$SLURM_JOB_ID" "$SLURMD_NODENAME" |
      awk -v self="$SLURM_STEP_ID" "\$1 \$3 \$4 ~ /^[0-9]+\$/ && \$3 != self { print \$1 }" | xargs -r kill -KILL'
}

# run_ranks RANKS COMMAND ARGS...: llmft COMMAND on that many ranks. Returns the exit code of the rank that failed: srun's own
# is the highest of all, and those that were ended because of it have higher ones.
run_ranks() {
  local rc=0 code=0 messages watcher
  srun_options "$1"
  shift
  exec {messages}> >(watch_messages)
  watcher=$!
  # in the background: a shell runs its traps only between commands or in 'wait'
  "${SRUN[@]}" "$@" </dev/null 2>&"$messages" &
  STEP_PID=$!
  exec {messages}>&-
  wait_for "$STEP_PID" || rc=$?
  STEP_PID=
  wait_for "$watcher" || code=$?
  [ "$rc" = 0 ] || [ "$code" = 0 ] || rc=$code
  return "$rc"
}

wait_for() { # wait_for PID: its exit code, whatever signals come meanwhile
  local rc before
  while :; do
    rc=0 before=$SIGNALS
    wait "$1" || rc=$?
    [ "$before" != "$SIGNALS" ] || return "$rc"
  done
}

# One line for each rank, and a check that the ranks are one MPI job: with a PMI that is not the library's they start as
# single processes, each of which would do, and write, everything.
check_ranks() {
  local log rc=0 found
  log=$(mktemp)
  run_ranks "$1" info >"$log" || rc=$?
  cat "$log"
  found=$(sed -n 's/^rank \([0-9]*\): host.*/\1/p' "$log")
  rm -f "$log"
  [ "$rc" = 0 ] && [ "$(wc -w <<<"$found")" -ge "$1" ] || stopped "$rc" "" ||
    fail "not all ranks started ('${SRUN[*]} info', exit code $rc, see above); modules, MPI and network are set in slurm/clusters/$SITE.env"
  found=$(sort -u <<<"$found" | wc -l)
  [ "$found" = "$1" ] ||
    fail "srun started $1 processes that are not one MPI job of $1 ranks but $found: the program's MPI library and srun's --mpi=${LLMFT_MPI:-default} do not belong together; set LLMFT_MPI in slurm/clusters/$SITE.env ('srun --mpi=list' shows what there is)"
}

# --- stopped by a signal -----------------------------------------------------------------------------------------

job_field() { scontrol --oneliner show job "$SLURM_JOB_ID" 2>/dev/null | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }

preempted() { # since this start: the time of an earlier preemption stays in the job's record
  local when
  when=$(job_field PreemptTime)
  [[ $when == [0-9]* && ! $when < $(job_field StartTime) ]]
}

# stopped CODE OUTPUT: was the step that ended with CODE stopped from outside? Then the job goes back into the queue and
# this does not return. llmft leaves the file OUTPUT/requeue beside its checkpoint.
stopped() {
  local mark=${2:+$2/requeue}
  if [ -n "$TERMINATED" ]; then
    if [ "$(job_field Reason)" = TimeLimit ] && [ -n "$mark" ] && [ -e "$mark" ]; then requeue "the time limit was reached"; fi
    say "the job is being ended; submitted again, it goes on from the last checkpoint"
    exit 143
  fi
  if [ -n "$mark" ] && [ -e "$mark" ]; then requeue "$(head -n 1 "$mark")"; fi
  # killed while it started: nothing to go on from, but nothing wrong either. A rank that is killed gives such codes too.
  if [ "$1" -gt 128 ] && [ -n "$TOLD" ]; then requeue "the time limit is near"; fi
  if [ "$1" -gt 128 ] && preempted; then requeue "preempted"; fi
  return 1
}

requeue() { # requeue WHY: back into the queue; this script's next start goes on where the checkpoint is
  local done_before=${SLURM_RESTART_COUNT:-0}
  trap '' USR1
  if [ "${LLMFT_REQUEUE:-yes}" != yes ]; then
    say "$1; LLMFT_REQUEUE=$LLMFT_REQUEUE: submit the script again to go on"
    exit 1
  fi
  if [ "$done_before" -ge "${LLMFT_MAX_RESTARTS:-100}" ]; then
    say "$1; restarted $done_before times already (LLMFT_MAX_RESTARTS): submit the script again to go on"
    exit 1
  fi
  say "$1; requeueing job $SLURM_JOB_ID (restarted $done_before times so far)"
  scontrol requeue "$SLURM_JOB_ID" || {
    say "this site does not let the job requeue itself: submit the script again to go on"
    exit 1
  }
  trap 'exit 0' TERM
  sleep 300 &
  wait $!
  exit 1
}

# train_ranks RANKS OUTPUT TABLE ARGS...: llmft train; does not return if it was stopped from outside
train_ranks() {
  local ranks=$1 output=$2 table=$3 rc=0
  shift 3
  rm -f "$output/requeue" # of an earlier start
  run_ranks "$ranks" train "$@" --output "$output" --results "$table" --resume || rc=$?
  stopped "$rc" "$output" || return "$rc"
}
