#!/usr/bin/env bash
# Tokenizes a data set into shards, on all tasks of the allocation.
#
#   sbatch slurm/preprocess.sh [OPTION...]      OPTIONs go to llmft preprocess, as --max-length 512
#   sbatch --nodes=4 slurm/preprocess.sh
#
# Finished shards are kept: near the time limit, and after a preemption, the job goes back into the queue by itself and
# makes the others. Submitted again after it is done, it does nothing.
#
# Settings, from the environment (docs/slurm.md has those of all scripts):
#   LLMFT_INPUT=data/OpenOrca                         file, folder or pattern of Parquet or JSON lines
#   LLMFT_TOKENIZER=models/Llama-3.2-1B-Instruct      the model's folder, or a tokenizer file
#   LLMFT_DATA=shards/openorca                        where the shards go; train.sh and the studies read them there
#   LLMFT_VALIDATION=0.01                             share of rows set apart for validation
#   LLMFT_RANKS          fewer ranks than the allocation has tasks
#   LLMFT_CLUSTER=SITE   slurm/clusters/SITE.env (default: the cluster's name if there is such a file, else generic)
#   SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS, SBATCH_TIMELIMIT, ...: read by sbatch, as its options of that name
#SBATCH --job-name=llmft-preprocess
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=16
#SBATCH --cpus-per-task=1
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

load_site
LLMFT_DEVICE=cpu # a rank a task, whatever GPUs the nodes have
find_ranks
need_program
input=${LLMFT_INPUT:-data/OpenOrca}
tokenizer=${LLMFT_TOKENIZER:-models/Llama-3.2-1B-Instruct}
compgen -G "$input" >/dev/null ||
  fail "LLMFT_INPUT: nothing at $input; get OpenOrca with: hf download Open-Orca/OpenOrca --repo-type dataset --local-dir data/OpenOrca"
[ -e "$tokenizer" ] ||
  fail "LLMFT_TOKENIZER: nothing at $tokenizer; get it with: hf download meta-llama/${tokenizer##*/} --local-dir $tokenizer (after 'hf auth login' and the access request on the model's page)"
set_mpi_environment
trap 'requeue "the time limit is near"' USR1 # finished shards are the checkpoint: nothing to wait for

ranks=${LLMFT_RANKS:-$RANKS}
output=${LLMFT_DATA:-shards/openorca}
check_ranks "$ranks"
say "$input -> $output: $ranks rank(s)"
rc=0
run_ranks "$ranks" preprocess --input "$input" --tokenizer "$tokenizer" --output "$output" \
  --validation "${LLMFT_VALIDATION:-0.01}" "$@" || rc=$?
[ "$rc" = 0 ] || stopped "$rc" "" || exit "$rc"
