#!/usr/bin/env bash
# One training run on all GPUs of the allocation (on all its tasks where it has no GPUs).
#
#   sbatch slurm/train.sh [OPTION...]           OPTIONs go to llmft train, as --train.lr=1e-4
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 slurm/train.sh
#
# Stopped by the time limit or by preemption it writes a checkpoint and goes back into the queue by itself. Submitted
# again, it goes on from the last checkpoint in its output folder.
#
# Settings, from the environment (docs/slurm.md has those of all scripts):
#   LLMFT_CONFIG=inputs/llama32_1b.yaml
#   LLMFT_MODEL, LLMFT_DATA, LLMFT_OUTPUT   folders; default: the config's model, data, output
#   LLMFT_STRATEGY, LLMFT_PRECISION, LLMFT_STEPS, LLMFT_ADAPTER_RANK   default: the config's
#   LLMFT_RANKS          fewer ranks than the allocation has room for
#   LLMFT_CLUSTER=SITE   slurm/clusters/SITE.env (default: the cluster's name if there is such a file, else generic)
#   SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS, SBATCH_TIMELIMIT, ...: read by sbatch, as its options of that name
#SBATCH --job-name=llmft-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
root=${LLMFT_ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}
[ -f "$root/slurm/lib.sh" ] || { echo "error: $root is not the root of the llmft repository: submit from there, or set LLMFT_ROOT to it" >&2 && exit 2; }
cd "$root" || exit 2
# shellcheck source=slurm/lib.sh
. slurm/lib.sh

load_site
find_ranks
training_settings
need_data
output=${LLMFT_OUTPUT:-$(config_value output)}
[ -n "$output" ] || fail "LLMFT_OUTPUT: not set, and $LLMFT_CONFIG has no 'output:'; give the run's folder"
set_mpi_environment

ranks=${LLMFT_RANKS:-$RANKS}
check_ranks "$ranks"
say "$output: $ranks rank(s)"
train_ranks "$ranks" "$output" "$RESULTS/benchmarks.csv" "${OPTIONS[@]}" --data "$LLMFT_DATA" \
  ${LLMFT_ADAPTER_RANK:+--adapter-rank "$LLMFT_ADAPTER_RANK"} ${LLMFT_STRATEGY:+--strategy "$LLMFT_STRATEGY"} \
  ${LLMFT_PRECISION:+--precision "$LLMFT_PRECISION"} ${LLMFT_STEPS:+--steps "$LLMFT_STEPS"} "$@"
