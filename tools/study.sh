#!/usr/bin/env bash
# make study: the precision and scaling studies on this machine, without SLURM: LoRA and full, samples of 512 tokens and of
# their own lengths, DDP and FSDP, fp32, tf32, fp16 and bf16, on 1, 2, 4, ... GPUs, the most important cells first. Started
# again it runs what is missing.
#
#   tools/study.sh [OPTION...]         in the repository or in a bundle; OPTIONs go to every llmft train, as --train.lr=1e-4
#
#   LLMFT_RANDOM=gpu LLMFT_RUNS=gpu/runs LLMFT_RESULTS=gpu/results LLMFT_STEPS=30 LLMFT_BUDGET=500 bundle/study.sh
#
# Settings, from the environment: those at the head of slurm/study.sh, and
#   LLMFT_CONFIG=inputs/llama32_1b.yaml
#   LLMFT_MODEL, LLMFT_DATA, LLMFT_DATA_FIXED   folders; default: the config's model, data, and data with -512
#   LLMFT_STRATEGIES="ddp fsdp"   on one GPU, where there are several of them, a single run without one
#   LLMFT_PRECISIONS="bf16 fp32 fp16 tf32"
#   LLMFT_RANK_COUNTS             default: "1 2 4 ..." up to all GPUs
#   LLMFT_RANKS                   ranks there is room for; default: the GPUs, without any 1
#   LLMFT_RANDOM=FOLDER           speed and memory need no trained model: with random weights of Llama 3.2-1B's shape and made-up
#                                 samples, of 512 tokens and of OpenOrca's lengths, made in FOLDER (LLMFT_RANDOM_SIZE=tiny: small)
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

# make_random FOLDER: what is not there yet, and the settings that name it
make_random() {
  local maker=$here/random_model.py name lengths longest
  export LLMFT_MODEL=$1/llama-3.2-1b-random LLMFT_DATA=$1/lengths-like-openorca LLMFT_DATA_FIXED=$1/letters-512
  if [ ! -f "$LLMFT_MODEL/tokenizer.json" ]; then
    say "$LLMFT_MODEL: random weights"
    python3 "$maker" --model "$LLMFT_MODEL" ${LLMFT_RANDOM_SIZE:+"--$LLMFT_RANDOM_SIZE"} || fail "LLMFT_RANDOM: could not make $LLMFT_MODEL, see above"
  fi
  for name in "$LLMFT_DATA" "$LLMFT_DATA_FIXED"; do
    [ ! -f "$name/manifest.json" ] || continue
    say "$name: made-up samples"
    if [ "$name" = "$LLMFT_DATA" ]; then
      lengths=(--count 8000) longest=(--max-length 2048)
    else
      lengths=(--count 4000 --length 512) longest=(--max-length 512 --min-length 512)
    fi
    python3 "$maker" --samples "$name.jsonl" "${lengths[@]}" || fail "LLMFT_RANDOM: could not make $name.jsonl, see above"
    "$LLMFT_BINARY" preprocess --input "$name.jsonl" --tokenizer "$LLMFT_MODEL" --output "$name" --validation 0.02 "${longest[@]}" ||
      fail "LLMFT_RANDOM: could not make $name, see above"
  done
}

LLMFT_CONFIG=${LLMFT_CONFIG:-$ROOT/inputs/llama32_1b.yaml}
load_site
find_ranks
[ -z "${LLMFT_RANDOM:-}" ] || make_random "$LLMFT_RANDOM"
study_settings
set_mpi_environment
run_grid "${LLMFT_STRATEGIES:-ddp fsdp}" "${LLMFT_PRECISIONS:-bf16 fp32 fp16 tf32}" "${LLMFT_RANK_COUNTS:-$(rank_counts)}" "$@"
