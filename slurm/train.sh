#!/usr/bin/env bash
#SBATCH --job-name=llmft-train
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append
#SBATCH --time=12:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# One training run on the whole allocation; resubmitted, requeued or preempted, it goes on from its newest checkpoint.
#   sbatch --gpus-per-node=8 slurm/train.sh
#   sbatch --nodes=2 --gpus-per-node=8 --export=ALL,LLMFT_RUN=runs/full,LLMFT_TRAIN_OPTIONS="--adapter-rank 0" slurm/train.sh
# LLMFT_CONFIG (inputs/llama32_1b.yaml)  LLMFT_MODEL  LLMFT_DATA  LLMFT_RUN (runs/<config's name>)  LLMFT_TRAIN_OPTIONS
set -euo pipefail
# sbatch runs a copy of this script from its spool: the clone is where the job was submitted.
cd "${SLURM_SUBMIT_DIR:-.}"
[ -f slurm/lib.sh ] || { echo "error: $PWD is not the root of an llmft clone; run sbatch there" >&2; exit 2; }
. slurm/lib.sh
load_site
need_model
need_data
pass_signals
run=${LLMFT_RUN:-$LLMFT_RUNS/$(basename "$LLMFT_CONFIG" .yaml)}
# shellcheck disable=SC2086
train_cell "$run" "$(max_ranks)" ${LLMFT_TRAIN_OPTIONS:-}
