#!/usr/bin/env bash
# make demo: the whole path on one CPU machine. Preprocess the sample, train a tiny Llama fully, then LoRA on top of it in
# three precisions, draw the plots, print a summary. RANKS=2 and everything below runs/demo, shards/demo can be changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ranks=${RANKS:-2}
runs=${RUNS:-runs/demo}
shards=${SHARDS:-shards/tiny}
launch=(mpirun -n "$ranks")

say() { printf '\n== %s\n' "$*"; }

say "preprocess: inputs/tiny/sample.parquet -> $shards"
"${launch[@]}" ./llmft preprocess --config inputs/tiny/preprocess.yaml --output "$shards" --force

say "train: full fine-tuning of the 1.4 M parameter model, fp32, $ranks ranks"
"${launch[@]}" ./llmft train --config inputs/tiny/train.yaml --data "$shards" --output "$runs/full-fp32" --overwrite

for precision in fp32 fp16 bf16; do
  say "train: LoRA on its result, $precision, $ranks ranks"
  "${launch[@]}" ./llmft train --config inputs/tiny/lora.yaml --data "$shards" --model "$runs/full-fp32/model" \
    --output "$runs/lora-$precision" --precision "$precision" --overwrite
done

for cell in "1 ddp" "2 ddp" "1 fsdp" "2 fsdp"; do
  read -r n strategy <<<"$cell"
  say "scaling: $strategy on $n rank(s), 12 steps"
  mpirun -n "$n" ./llmft train --config inputs/tiny/lora.yaml --data "$shards" --model "$runs/full-fp32/model" \
    --output "$runs/scaling-$strategy-$n" --strategy "$strategy" --precision fp32 --steps 12 --overwrite
done

say "plots"
.venv/bin/python postprocess/plots.py --benchmarks results/benchmarks.csv --runs "$runs" --out results

say "summary"
.venv/bin/python postprocess/summary.py "$runs"/full-fp32 "$runs"/lora-fp32 "$runs"/lora-fp16 "$runs"/lora-bf16
printf '\nrun directories: %s/*   table: results/benchmarks.csv   plots: results/*.png\n' "$runs"
