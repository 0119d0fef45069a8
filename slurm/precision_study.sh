#!/usr/bin/env bash
#SBATCH --job-name=llmft-precision
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append
#SBATCH --time=04:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Precision study on one rank: the same run in fp32, tf32, fp16 and bf16; then the plots.
#   sbatch --gpus-per-node=1 slurm/precision_study.sh
# LLMFT_PRECISIONS ("fp32 tf32 fp16 bf16")  LLMFT_STEPS (60)  LLMFT_CONFIG  LLMFT_MODEL  LLMFT_DATA  LLMFT_TRAIN_OPTIONS
set -euo pipefail
# sbatch runs a copy of this script from its spool: the clone is where the job was submitted.
cd "${SLURM_SUBMIT_DIR:-.}"
[ -f slurm/lib.sh ] || { echo "error: $PWD is not the root of an llmft clone; run sbatch there" >&2; exit 2; }
. slurm/lib.sh
load_site
need_model
need_data
pass_signals
for precision in ${LLMFT_PRECISIONS:-fp32 tf32 fp16 bf16}; do
  # shellcheck disable=SC2086
  train_cell "$LLMFT_RUNS/precision-$precision" 1 --precision "$precision" --steps "${LLMFT_STEPS:-60}" ${LLMFT_TRAIN_OPTIONS:-}
done
draw_plots
