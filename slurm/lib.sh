# shellcheck shell=bash
# What all job scripts share: finding the clone, the site's settings, starting ranks, requeueing. Sourced, not run.
# docs/slurm.md explains each setting and the traps behind it.

say() { printf '%s: %s\n' "${SLURM_JOB_NAME:-llmft}" "$*"; }
die() {
  printf '%s: error: %s\n' "${SLURM_JOB_NAME:-llmft}" "$*" >&2
  exit 2
}

# The site file sets modules, paths and SRUN options; what the user exported wins over it.
load_site() {
  [ -n "${SLURM_JOB_ID:-}" ] || die "not inside a SLURM job; submit it: sbatch slurm/$(basename "$0")"
  local site=${LLMFT_CLUSTER:-${SLURM_CLUSTER_NAME:-generic}}
  local file=slurm/clusters/$site.env
  if [ ! -f "$file" ]; then
    [ -z "${LLMFT_CLUSTER:-}" ] || die "LLMFT_CLUSTER=$LLMFT_CLUSTER: no file $file; copy slurm/clusters/generic.env to it"
    file=slurm/clusters/generic.env
  fi
  # shellcheck source=/dev/null
  . "$file"
  LLMFT_BIN=${LLMFT_BIN:-./llmft}
  LLMFT_CONFIG=${LLMFT_CONFIG:-inputs/llama32_1b.yaml}
  LLMFT_MODEL=${LLMFT_MODEL:-models/Llama-3.2-1B-Instruct}
  LLMFT_DATA=${LLMFT_DATA:-shards/openorca}
  LLMFT_RUNS=${LLMFT_RUNS:-runs}
  LLMFT_RESULTS=${LLMFT_RESULTS:-results}
  LLMFT_PYTHON=${LLMFT_PYTHON:-.venv/bin/python}
  [ -x "$LLMFT_BIN" ] || die "$LLMFT_BIN: no such program; build it with 'make', or set LLMFT_BIN"

  # Slurm's PMIx fence in 'tree' form spans one node only when there are fewer nodes than TreeWidth: 2-8 % of
  # multi-node starts then die in MPI_Init.
  export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-ring}
  # Ranks that share cores must not spin while they wait; srun does not tell Open MPI so.
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
  # NVLink multicast off unless the site asks for it.
  export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
}

need_model() { [ -f "$LLMFT_MODEL/config.json" ] || die "$LLMFT_MODEL: no model there; 'hf download meta-llama/Llama-3.2-1B-Instruct --local-dir $LLMFT_MODEL', or set LLMFT_MODEL"; }
need_data() { [ -f "$LLMFT_DATA/manifest.json" ] || die "$LLMFT_DATA: no shards there; 'sbatch slurm/preprocess.sh', or set LLMFT_DATA"; }

# Ranks that the allocation offers: one a GPU, or the tasks on nodes without GPUs.
max_ranks() {
  local per_node=${SLURM_GPUS_ON_NODE:-0}
  case $per_node in *[!0-9]* | '') per_node=0 ;; esac
  if [ "${LLMFT_DEVICE:-auto}" != cpu ] && [ "$per_node" -gt 0 ]; then
    echo $((per_node * SLURM_JOB_NUM_NODES))
  else
    echo "${SLURM_NTASKS:-1}"
  fi
}

# 1 2 4 8 ... up to what the allocation offers; LLMFT_RANKS="1 2 3" says otherwise.
rank_counts() {
  local n max
  max=$(max_ranks)
  if [ -n "${LLMFT_RANKS:-}" ]; then
    echo "$LLMFT_RANKS"
    return
  fi
  for ((n = 1; n <= max; n *= 2)); do printf '%s ' "$n"; done
}

# launch RANKS COMMAND...: one srun step, spread over as few nodes as hold that many ranks.
launch() {
  local ranks=$1 nodes per_node
  shift
  per_node=$((($(max_ranks) + SLURM_JOB_NUM_NODES - 1) / SLURM_JOB_NUM_NODES))
  nodes=$(((ranks + per_node - 1) / per_node))
  [ "$nodes" -le "$SLURM_JOB_NUM_NODES" ] || nodes=$SLURM_JOB_NUM_NODES
  local options=(--nodes="$nodes" --ntasks="$ranks" --kill-on-bad-exit=1)
  # A rank that dies without MPI_Abort leaves the others in their collective for ever: hence --kill-on-bad-exit.
  srun --mpi=list 2>&1 | grep -qw pmix && options+=(--mpi=pmix)
  # shellcheck disable=SC2206
  options+=(${LLMFT_SRUN_OPTIONS:-})
  srun "${options[@]}" "$@" &
  SRUN_PID=$!
  local rc=0
  wait "$SRUN_PID" || rc=$?
  # wait returns early, with more than 128, when a trapped signal came in; srun itself is still there then
  while kill -0 "$SRUN_PID" 2>/dev/null; do
    rc=0
    wait "$SRUN_PID" || rc=$?
  done
  return "$rc"
}

# The batch shell gets SIGUSR1 (--signal=B:USR1@...) or SIGTERM and hands USR1 on to the ranks, which write a checkpoint.
pass_signals() {
  trap 'say "signal: asking the ranks for a checkpoint"; kill -USR1 "${SRUN_PID:-0}" 2>/dev/null || :' USR1 TERM
}

# A job that ends with 0 is COMPLETED and is not requeued by itself, even when it was preempted.
requeue_if_asked() {
  local run=$1
  [ -f "$run/requeue" ] || return 0
  if [ -n "${LLMFT_NO_REQUEUE:-}" ]; then
    say "$run stopped with a checkpoint; not requeued (LLMFT_NO_REQUEUE is set)"
    exit 0
  fi
  say "$run stopped with a checkpoint; requeueing job $SLURM_JOB_ID"
  scontrol requeue "$SLURM_JOB_ID" || say "requeue refused; submit the script again, it goes on from the checkpoint"
  exit 0
}

finished() { grep -q '"finished": *true' "$1/run.json" 2>/dev/null; }

# train_cell RUN RANKS OPTIONS...: one run of the study, unless it is done; goes on from its checkpoint.
train_cell() {
  local run=$1 ranks=$2
  shift 2
  if finished "$run"; then
    say "$run: done already, skipped"
    return 0
  fi
  say "$run: $ranks rank(s): $*"
  local rc=0
  launch "$ranks" "$LLMFT_BIN" train --config "$LLMFT_CONFIG" --model "$LLMFT_MODEL" --data "$LLMFT_DATA" --output "$run" \
    --results "$LLMFT_RESULTS/benchmarks.csv" --device "${LLMFT_DEVICE:-auto}" --resume "$@" || rc=$?
  requeue_if_asked "$run"
  return "$rc"
}

draw_plots() {
  [ -x "$LLMFT_PYTHON" ] || { say "no $LLMFT_PYTHON: plots left out; 'make plots' draws them"; return 0; }
  "$LLMFT_PYTHON" postprocess/plots.py --benchmarks "$LLMFT_RESULTS/benchmarks.csv" --runs "$LLMFT_RUNS" --out "$LLMFT_RESULTS"
}
