#!/usr/bin/env bash
# The scaling study of DDP: the same run, LoRA and full, on samples of 512 tokens and of their own lengths, in bf16, fp32,
# fp16 and tf32, on 1, 2, 4, ... GPUs of one allocation, up to all of them (tasks where it has no GPUs), then the plots. Cells that are finished already are skipped, so it can be submitted again, or on more nodes.
#
#   sbatch slurm/scaling_ddp.sh [OPTION...]       OPTIONs go to every llmft train, as --train.lr=1e-4
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 slurm/scaling_ddp.sh
#
# Settings, from the environment (docs/slurm.md has those of all scripts):
#   LLMFT_CONFIG=inputs/llama32_1b.yaml
#   LLMFT_MODEL, LLMFT_DATA   folders; default: the config's model, data
#   LLMFT_DATA_FIXED          shards whose samples have 512 tokens each; default: LLMFT_DATA's folder with -512. Made by
#                             LLMFT_DATA=... sbatch slurm/preprocess.sh --max-length 512 --on-too-long truncate --min-length 512
#   LLMFT_PRECISIONS="bf16 fp32 fp16 tf32"   one or more of these and fp8
#   LLMFT_RANK_COUNTS         default: "1 2 4 ..." up to all
#   LLMFT_STEPS, LLMFT_WARMUP, LLMFT_REPEATS, LLMFT_MODES, LLMFT_LENGTHS, LLMFT_EVAL, LLMFT_BUDGET, ...: the head of slurm/study.sh
#   LLMFT_CLUSTER=SITE   slurm/clusters/SITE.env (default: the cluster's name if there is such a file, else generic)
#   SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS, SBATCH_TIMELIMIT, ...: read by sbatch, as its options of that name
#SBATCH --job-name=llmft-scaling-ddp
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
root=${LLMFT_ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}
[ -f "$root/slurm/lib.sh" ] || { echo "error: $root is not the root of the llmft repository: submit from there, or set LLMFT_ROOT to it" >&2 && exit 2; }
cd "$root" || exit 2
# shellcheck source=slurm/lib.sh
. slurm/lib.sh
# shellcheck source=slurm/study.sh
. slurm/study.sh

load_site
find_ranks
study_settings
set_mpi_environment
run_grid ddp "${LLMFT_PRECISIONS:-bf16 fp32 fp16 tf32}" "${LLMFT_RANK_COUNTS:-$(rank_counts)}" "$@"
