#!/usr/bin/env bash
# make study: the precision and scaling studies on this machine, without SLURM: LoRA and full, samples of 512 tokens and of
# their own lengths, DDP and FSDP, fp32, tf32, fp16 and bf16, on 1, 2, 4, ... GPUs, the most important cells first. Started
# again it runs what is missing.
#
#   tools/study.sh [OPTION...]         in the repository or in a bundle; OPTIONs go to every llmft train, as --train.lr=1e-4
#
#   LLMFT_MODEL=gpu/model LLMFT_DATA=gpu/data LLMFT_BUDGET=540 LLMFT_REPEATS=1 LLMFT_RUNS=gpu/runs LLMFT_RESULTS=gpu/results bundle/study.sh
#
# Settings, from the environment: those at the head of slurm/study.sh, and
#   LLMFT_CONFIG=inputs/llama32_1b.yaml
#   LLMFT_MODEL, LLMFT_DATA, LLMFT_DATA_FIXED   folders; default: the config's model, data, and data with -512
#   LLMFT_STRATEGIES="ddp fsdp"   on one GPU, where there are several of them, a single run without one
#   LLMFT_PRECISIONS="bf16 fp32 fp16 tf32"
#   LLMFT_RANK_COUNTS             default: "1 2 4 ..." up to all GPUs
#   LLMFT_RANKS                   ranks there is room for; default: the GPUs, without any 1
#   LLMFT_BINARY, LLMFT_MPIRUN    program and mpirun; default: those of the repository or the bundle, and PATH's
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$here
[ -f "$ROOT/slurm/lib.sh" ] || ROOT=$(dirname -- "$here")
# shellcheck source=slurm/lib.sh
. "$ROOT/slurm/lib.sh"
# shellcheck source=slurm/local.sh
. "$ROOT/slurm/local.sh"
# shellcheck source=slurm/study.sh
. "$ROOT/slurm/study.sh"

LLMFT_CONFIG=${LLMFT_CONFIG:-$ROOT/inputs/llama32_1b.yaml}
load_site
find_ranks
study_settings
set_mpi_environment
run_grid "${LLMFT_STRATEGIES:-ddp fsdp}" "${LLMFT_PRECISIONS:-bf16 fp32 fp16 tf32}" "${LLMFT_RANK_COUNTS:-$(rank_counts)}" "$@"
