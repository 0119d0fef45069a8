#!/usr/bin/env bash
#SBATCH --job-name=llmft-scaling-fsdp
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append
#SBATCH --time=04:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Scaling study, FSDP: 1, 2, 4, 8, ... ranks up to the allocation, every precision; then the plots.
#   sbatch --gpus-per-node=8 slurm/scaling_fsdp.sh
# LLMFT_PRECISIONS ("bf16 fp32")  LLMFT_STEPS (60)  LLMFT_RANKS ("1 2 4 8")  LLMFT_BATCH_PACKS (8, over all ranks)
# LLMFT_CONFIG  LLMFT_MODEL  LLMFT_DATA  LLMFT_TRAIN_OPTIONS
set -euo pipefail
# sbatch runs a copy of this script from its spool: the clone is where the job was submitted.
cd "${SLURM_SUBMIT_DIR:-.}"
[ -f slurm/lib.sh ] || { echo "error: $PWD is not the root of an llmft clone; run sbatch there" >&2; exit 2; }
. slurm/lib.sh
load_site
need_model
need_data
pass_signals
for precision in ${LLMFT_PRECISIONS:-bf16 fp32}; do
  for ranks in $(rank_counts); do
    # shellcheck disable=SC2086
    train_cell "$LLMFT_RUNS/scaling-fsdp-$precision-$ranks" "$ranks" --strategy fsdp --precision "$precision" --steps "${LLMFT_STEPS:-60}" \
      --batch-packs "${LLMFT_BATCH_PACKS:-8}" ${LLMFT_TRAIN_OPTIONS:-}
  done
done
draw_plots
