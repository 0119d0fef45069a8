#!/usr/bin/env bash
# Scores a model, and it with an adapter, on a validation set, on all GPUs of the allocation (on all its tasks where it has
# no GPUs): perplexity, BLEU, ROUGE, answers side by side, a figure.
#
#   LLMFT_ADAPTER=runs/x/adapter sbatch slurm/eval.sh [OPTION...]      OPTIONs go to llmft eval, as --samples -1
#
# Settings, from the environment (docs/slurm.md has those of all scripts):
#   LLMFT_CONFIG=inputs/llama32_1b.yaml   where model and data are named
#   LLMFT_MODEL          folder of the model; default: the config's
#   LLMFT_ADAPTER        folder of an adapter; default: none, the model alone
#   LLMFT_DATA           shards to score on; default: valid/ of the config's data
#   LLMFT_OUTPUT=runs/eval   folder for tables and answers
#   LLMFT_RANKS          fewer ranks than the allocation has room for
#   LLMFT_CLUSTER=SITE   slurm/clusters/SITE.env (default: the cluster's name if there is such a file, else generic)
#   SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS, SBATCH_TIMELIMIT, ...: read by sbatch, as its options of that name
#SBATCH --job-name=llmft-eval
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
root=${LLMFT_ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}
[ -f "$root/slurm/lib.sh" ] || { echo "error: $root is not the root of the llmft repository: submit from there, or set LLMFT_ROOT to it" >&2 && exit 2; }
cd "$root" || exit 2
# shellcheck source=slurm/lib.sh
. slurm/lib.sh

load_site
find_ranks
need_program
LLMFT_CONFIG=${LLMFT_CONFIG:-inputs/llama32_1b.yaml}
if [ -z "${LLMFT_MODEL:-}" ] || [ -z "${LLMFT_DATA:-}" ]; then
  need_config
  LLMFT_MODEL=${LLMFT_MODEL:-$(config_value model)}
  LLMFT_DATA=${LLMFT_DATA:-$(config_value data)/valid}
fi
need_model
need_data
[ -z "${LLMFT_ADAPTER:-}" ] || [ -f "$LLMFT_ADAPTER/adapter_config.json" ] ||
  fail "LLMFT_ADAPTER: no adapter in $LLMFT_ADAPTER; 'sbatch slurm/train.sh' makes one, in its run folder's adapter/"
output=${LLMFT_OUTPUT:-runs/eval}
set_mpi_environment

ranks=${LLMFT_RANKS:-$RANKS}
check_ranks "$ranks"
say "$output: $ranks rank(s)"
run_ranks "$ranks" eval --model "$LLMFT_MODEL" --data "$LLMFT_DATA" --output "$output" --threads "${LLMFT_THREADS:-$CPUS_PER_RANK}" \
  ${LLMFT_ADAPTER:+--adapter "$LLMFT_ADAPTER"} ${LLMFT_DEVICE:+--device "$LLMFT_DEVICE"} "$@"
if [ -x .venv/bin/python ]; then .venv/bin/python postprocess/eval_plot.py "$output"; fi
