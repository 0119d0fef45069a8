#!/usr/bin/env bash
# The chat page and the OpenAI-compatible API on a node, and how to reach them from your machine: the job's output has the
# 'ssh -L' line.
#
#   LLMFT_ADAPTER=runs/x/adapter sbatch slurm/serve.sh [OPTION...]     OPTIONs go to llmft serve, as --max-sequences 128
#   tail -f slurm-llmft-serve-JOB.out                                  the ssh line, the address
#   scancel JOB                                                        ends it
#
# The server listens on the node's loopback alone; whoever has an account on that node could still use it, so it asks for a
# key, which is made for each job and lies in slurm-llmft-serve-JOB.key, for you alone to read. Where ssh to compute nodes is not allowed, LLMFT_HOST=0.0.0.0 makes the
# server listen on the cluster's network, and the tunnel ends on the login node.
#
# Settings, from the environment (docs/slurm.md has those of all scripts):
#   LLMFT_MODEL          folder of the model; default: the model of inputs/llama32_1b.yaml (LLMFT_CONFIG)
#   LLMFT_ADAPTER        folder of an adapter: base and fine-tuned answer side by side
#   LLMFT_PORT           on the node; default: one made from the job's number
#   LLMFT_LOCAL_PORT=7860   on your machine
#   LLMFT_HOST=127.0.0.1 what it listens on; 0.0.0.0: all of the node's addresses
#   LLMFT_LOGIN          the login node as you name it in ssh; default: the host the job was submitted from
#   LLMFT_API_KEY        default: a new one; empty: none is asked for
#   LLMFT_CLUSTER=SITE   slurm/clusters/SITE.env (default: the cluster's name if there is such a file, else generic)
#   SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS, SBATCH_TIMELIMIT, ...: read by sbatch, as its options of that name
#SBATCH --job-name=llmft-serve
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
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
if [ -z "${LLMFT_MODEL:-}" ]; then
  need_config
  LLMFT_MODEL=$(config_value model)
fi
need_model
[ -z "${LLMFT_ADAPTER:-}" ] || [ -f "$LLMFT_ADAPTER/adapter_config.json" ] ||
  fail "LLMFT_ADAPTER: no adapter in $LLMFT_ADAPTER; 'sbatch slurm/train.sh' makes one, in its run folder's adapter/"

host=${LLMFT_HOST:-127.0.0.1}
port=${LLMFT_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
local_port=${LLMFT_LOCAL_PORT:-7860}
login=${LLMFT_LOGIN:-${SLURM_SUBMIT_HOST:-LOGIN_NODE}}
node=${SLURMD_NODENAME:-$(hostname -s)}
user=${USER:-$(id -un)}
if [ -z "${LLMFT_API_KEY+x}" ]; then
  LLMFT_API_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  key_file=$PWD/slurm-llmft-serve-$SLURM_JOB_ID.key
  (umask 077 && echo "$LLMFT_API_KEY" >"$key_file") # the job's output may be readable for others
  trap 'rm -f "$key_file"' EXIT
fi
export LLMFT_API_KEY # not an argument: other users of the node see those

if [ "$host" = 127.0.0.1 ] || [ "$host" = localhost ]; then
  tunnel="ssh -N -L $local_port:127.0.0.1:$port -J $user@$login $user@$node"
else
  tunnel="ssh -N -L $local_port:$node:$port $user@$login"
fi
say "on $node, port $port. On your machine:"
say "    $tunnel"
say "then open http://localhost:$local_port (API: http://localhost:$local_port/v1${key_file:+; the key it asks for is in $key_file})"

# one process without MPI; the node's GPU or CPUs are this job's
LLMFT_MPI=none
LLMFT_RANKS_PER_NODE=1
RANKS_PER_NODE=1 RANKS=1
rc=0
run_ranks 1 serve --model "$LLMFT_MODEL" ${LLMFT_ADAPTER:+--adapter "$LLMFT_ADAPTER"} --host "$host" --port "$port" \
  --threads "${LLMFT_THREADS:-$CPUS_PER_RANK}" ${LLMFT_DEVICE:+--device "$LLMFT_DEVICE"} "$@" || rc=$?
if [ -n "$TERMINATED" ]; then
  say "the job is being ended; the server has stopped"
  exit 0
fi
exit "$rc"
