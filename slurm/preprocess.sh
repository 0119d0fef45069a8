#!/usr/bin/env bash
#SBATCH --job-name=llmft-preprocess
#SBATCH --output=slurm-%x-%j.out
#SBATCH --open-mode=append
#SBATCH --time=02:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=16
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# Tokenizes the data into shards, all ranks of the allocation together; run again, it writes what is missing.
#   sbatch slurm/preprocess.sh
#   sbatch --nodes=4 --ntasks-per-node=28 --export=ALL,LLMFT_INPUT=data/OpenOrca slurm/preprocess.sh
# LLMFT_INPUT (data/OpenOrca)  LLMFT_TOKENIZER (the model folder)  LLMFT_DATA (shards/openorca)
# LLMFT_PREPROCESS_OPTIONS ("--validation 0.01 --max-length 2048")
set -euo pipefail
# sbatch runs a copy of this script from its spool: the clone is where the job was submitted.
cd "${SLURM_SUBMIT_DIR:-.}"
[ -f slurm/lib.sh ] || { echo "error: $PWD is not the root of an llmft clone; run sbatch there" >&2; exit 2; }
. slurm/lib.sh
load_site
input=${LLMFT_INPUT:-data/OpenOrca}
[ -e "$input" ] || die "$input: no data there; 'hf download Open-Orca/OpenOrca --repo-type dataset --local-dir $input', or set LLMFT_INPUT"
tokenizer=${LLMFT_TOKENIZER:-$LLMFT_MODEL}
# shellcheck disable=SC2086
launch "${SLURM_NTASKS:-1}" "$LLMFT_BIN" preprocess --input "$input" --tokenizer "$tokenizer" --output "$LLMFT_DATA" \
  ${LLMFT_PREPROCESS_OPTIONS:---validation 0.01 --max-length 2048}
