#!/usr/bin/env bash
# Runs llmft on 1 and 2 GPUs (or 1 and N) at the shape of Llama 3.2-1B: every strategy, LoRA and full, in bf16 and
# fp32; prints tokens/s, memory a rank and exposed communication, and checks that --deterministic runs agree bit for
# bit and that a checkpoint goes over from two ranks to one. Needs a folder made by tools/bundle.sh, and python3 for
# the random model and data that it makes.
#   tools/bundle.sh build/release bundle build/release/tests/mpi_parallel build/release/bench/bench_comm
#   cp tools/multi_gpu_check.sh bundle/
#   bundle/multi_gpu_check.sh [WORK_FOLDER]        default: ./gpu-runs
# GPUS=2, TOKENS=16384 (a rank and micro-step), STEPS=16, BUDGET=450 (seconds; what does not fit is left out),
# ONLY='lora bf16' (a pattern of run names) and MODEL=, DATA= (folders to use) change it.
set -uo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
work=${1:-gpu-runs}
gpus=${GPUS:-2} tokens=${TOKENS:-16384} steps=${STEPS:-16} budget=${BUDGET:-450} only=${ONLY:-.}
mkdir -p "$work" && work=$(cd "$work" && pwd -P)
model=${MODEL:-$work/model} data=${DATA:-$work/data}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
export XDG_CACHE_HOME=$work/cache
failed=0

say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
ranks() { "$here/mpirun" --bind-to none -n "$@"; }

make_model() {
  python3 - "$1" <<'PY'
import array, json, math, pathlib, random, struct, sys

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
layers, width, mlp, kv, vocab = 16, 2048, 8192, 512, 128256
config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": width,
    "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 64, "vocab_size": vocab, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "rope_theta": 500000.0, "bos_token_id": 256,
    "eos_token_id": 257, "attention_bias": False, "mlp_bias": False,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"}}
(folder / "config.json").write_text(json.dumps(config, indent=1))

shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
for i in range(layers):
    p = f"model.layers.{i}."
    shapes |= {p + "input_layernorm.weight": (width,), p + "post_attention_layernorm.weight": (width,)}
    for name, rows, cols in (("self_attn.q", width, width), ("self_attn.k", kv, width), ("self_attn.v", kv, width),
                             ("self_attn.o", width, width), ("mlp.gate", mlp, width), ("mlp.up", mlp, width),
                             ("mlp.down", width, mlp)):
        shapes[f"{p}{name}_proj.weight"] = (rows, cols)

def bf16(value):
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16

random.seed(1)
values = [bf16(random.uniform(-0.0346, 0.0346)) for _ in range(1 << 14)]  # standard deviation 0.02
pool = array.array("H", random.choices(values, k=1 << 22)).tobytes()
header, at = {}, 0
for name, shape in shapes.items():
    size = 2 * math.prod(shape)
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
    at += size
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(folder / "model.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    for name, shape in shapes.items():
        left = 2 * math.prod(shape)
        if len(shape) == 1:
            f.write(struct.pack("<H", bf16(1.0)) * shape[0])
            continue
        while left > 0:  # a stretch of the pool from a random place: quick, and no two rows alike
            begin = 2 * random.randrange(len(pool) // 4)
            f.write(pool[begin : begin + left])
            left -= min(left, len(pool) - begin)

characters = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255 else None for b in range(256)]
spare = iter(range(256, 512))
characters = [c or chr(next(spare)) for c in characters]
special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
split = {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                                               r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"},
         "behavior": "Isolated", "invert": False}
level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
(folder / "tokenizer.json").write_text(json.dumps({
    "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
    "added_tokens": [{"id": 256 + i, "content": t, **flags} for i, t in enumerate(special)],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "decoder": level,
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
              "vocab": {c: i for i, c in enumerate(characters)}, "merges": []}}))
PY
}

# Samples of 1024 tokens (a character is one), the last 45 % of each supervised.
make_data() {
  python3 - "$1.jsonl" <<'PY'
import json, random, sys

random.seed(1)
words = lambda n: "".join(random.choices("abcdefghijklmnopqrstuvwxyz ", k=n - 1)).strip().ljust(n, "x")
with open(sys.argv[1], "w") as f:
    for i in range(4000):
        f.write(json.dumps({"id": str(i), "system_prompt": "", "question": words(540), "response": words(460)}) + "\n")
PY
  "$here/llmft" preprocess --input "$1.jsonl" --tokenizer "$model" --output "$1" --max-length 1100 --force
}

# one NAME RANKS PACKS OPTIONS...: a run of $steps steps in $work/NAME, unless there is no time left.
one() {
  local name=$1 n=$2 packs=$3
  shift 3
  [[ $name =~ $only ]] || return 0
  if ((SECONDS > budget)); then
    echo "$name: left out, the time is used up"
    return 0
  fi
  ranks "$n" "$here/llmft" train --model "$model" --data "$data" --output "$work/$name" --overwrite --results "" \
    --device "${DEVICE:-cuda}" --pack-tokens "$tokens" --batch-packs "$packs" --steps "$steps" \
    --train.schedule constant --train.warmup_steps 1 --report.timing_warmup 6 --checkpoint-every 0 "$@" \
    >"$work/$name.log" 2>&1
  local status=$?
  if ((status != 0)); then
    echo "$name: FAILED with $status: $(grep -m1 -iE 'error|NCCL' "$work/$name.log" || tail -1 "$work/$name.log")"
    failed=1
    return 0
  fi
  table "$name" "$n"
}

table() {
  python3 - "$work/$1" "$1" "$2" <<'PY'
import csv, json, pathlib, statistics, sys

folder, name, ranks = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rows = list(csv.DictReader(open(folder / "steps.csv")))
late = rows[6:] or rows
speed = statistics.median(float(r["tokens_per_s"]) for r in late)
seconds = statistics.median(float(r["step_time_s"]) for r in late)
memory = {}
for r in csv.DictReader(open(folder / "memory.csv")):
    memory.setdefault(int(r["rank"]), {})[r["part"]] = int(r["bytes"]) / 1e9
exposed = [float(r["seconds"]) for r in csv.DictReader(open(folder / "timing.csv"))
           if r["phase"] == "exposed_communication"]
parts = ("weights", "adapters", "gradients", "optimizer", "gathered")
first = memory[0]
print(f"{name:34s} {speed:9,.0f} tok/s {1e3 * seconds:8.1f} ms  exposed/step ms "
      f"{' '.join(f'{1e3 * e / len(rows):.2f}' for e in exposed) or '-'}  peak GB "
      f"{' '.join(format(m['peak'], '.2f') for m in memory.values())}  "
      f"({', '.join(f'{p} {first[p]:.2f}' for p in parts)})  loss {float(rows[-1]['loss']):.5f}", flush=True)
PY
}

# same NAMES...: losses and gradient norms of all these runs are equal in every digit.
same() {
  python3 - "$work" "$@" <<'PY' || failed=1
import csv, pathlib, sys

work, names = pathlib.Path(sys.argv[1]), [n for n in sys.argv[2:] if (pathlib.Path(sys.argv[1]) / n / "run.json").exists()]
runs = {n: [(r["step"], r["loss"], r["grad_norm"]) for r in csv.DictReader(open(work / n / "steps.csv"))] for n in names}
bad = 0
for name in names[1:]:
    first = runs[names[0]]
    differ = [a[0] for a, b in zip(first, runs[name]) if a != b]
    verdict = "the same bits" if not differ and len(first) == len(runs[name]) else f"DIFFERS from step {differ[:1]} on"
    bad |= verdict != "the same bits"
    print(f"{name:34s} against {names[0]}: {verdict}, {len(first)} steps")
sys.exit(bad)
PY
}

say "what every rank sees"
ranks "$gpus" "$here/llmft" info 2>&1 | grep -E '^(llmft|rank|  NCCL)'
if [[ -x $here/mpi_parallel ]]; then
  say "collectives and stores"
  ranks "$gpus" "$here/mpi_parallel" 2>&1 | tail -4 || failed=1
fi
if [[ -x $here/bench_comm ]]; then
  say "bandwidth"
  ranks "$gpus" "$here/bench_comm" 2>&1
fi
[[ -f $model/model.safetensors ]] || { say "a random model"; make_model "$model" || exit; }
[[ -f $data/manifest.json ]] || { say "data"; make_data "$data" >"$work/data.log" 2>&1 || { tail -3 "$work/data.log"; exit 1; }; }

measure=(--measure-only)
full=(--adapter-rank 0 --lr 1e-5)
say "speed, bf16: $tokens tokens a rank and step"
one "lora bf16 none 1" 1 1 --strategy none "${measure[@]}"
for s in ddp "fsdp full_shard" "fsdp shard_grad_op" hsdp; do
  read -r strategy mode <<<"$s"
  one "lora bf16 $s $gpus" "$gpus" "$gpus" --strategy "$strategy" ${mode:+--fsdp-mode "$mode"} "${measure[@]}"
done
one "full bf16 none 1" 1 1 --strategy none "${full[@]}" "${measure[@]}"
for s in ddp "fsdp full_shard" "fsdp shard_grad_op"; do
  read -r strategy mode <<<"$s"
  one "full bf16 $s $gpus" "$gpus" "$gpus" --strategy "$strategy" ${mode:+--fsdp-mode "$mode"} "${full[@]}" "${measure[@]}"
done

say "fewer of the GPU's units for NCCL"
for ctas in 4 8; do
  NCCL_MAX_CTAS=$ctas one "lora bf16 fsdp ctas $ctas $gpus" "$gpus" "$gpus" --strategy fsdp "${measure[@]}"
  NCCL_MAX_CTAS=$ctas one "full bf16 fsdp ctas $ctas $gpus" "$gpus" "$gpus" --strategy fsdp "${full[@]}" "${measure[@]}"
done

say "the same bits: $gpus packs a step on 1 and $gpus GPUs"
for kind in lora full; do
  extra=("${measure[@]}")
  [[ $kind == full ]] && extra+=("${full[@]}")
  steps=8
  one "$kind tree none 1" 1 "$gpus" --strategy none --deterministic "${extra[@]}"
  one "$kind tree ddp $gpus" "$gpus" "$gpus" --strategy ddp --deterministic "${extra[@]}"
  one "$kind tree fsdp $gpus" "$gpus" "$gpus" --strategy fsdp --deterministic "${extra[@]}"
  one "$kind tree hsdp $gpus" "$gpus" "$gpus" --strategy hsdp --deterministic "${extra[@]}"
  same "$kind tree none 1" "$kind tree ddp $gpus" "$kind tree fsdp $gpus" "$kind tree hsdp $gpus"
done

say "a checkpoint of $gpus ranks with FSDP, gone on with on one"
steps=4
one "lora resume" "$gpus" "$gpus" --strategy fsdp --deterministic
steps=8
if [[ -d "$work/lora resume/checkpoints" ]]; then
  ranks 1 "$here/llmft" train --model "$model" --data "$data" --output "$work/lora resume" --resume --results "" \
    --device "${DEVICE:-cuda}" --pack-tokens "$tokens" --batch-packs "$gpus" --steps 8 --train.schedule constant --train.warmup_steps 1 \
    --strategy none --deterministic >"$work/lora resume.2.log" 2>&1 || tail -2 "$work/lora resume.2.log"
  same "lora tree none 1" "lora resume"
fi

say "fp32, and LoRA at other precisions"
((tokens > 8192)) && tokens=8192
steps=9
for precision in fp32 tf32 fp16; do
  one "lora $precision none 1" 1 1 --strategy none --precision "$precision" "${measure[@]}"
  one "lora $precision ddp $gpus" "$gpus" "$gpus" --strategy ddp --precision "$precision" "${measure[@]}"
  one "lora $precision fsdp $gpus" "$gpus" "$gpus" --strategy fsdp --precision "$precision" "${measure[@]}"
done
one "full fp32 ddp $gpus" "$gpus" "$gpus" --strategy ddp --precision fp32 "${full[@]}" "${measure[@]}"
one "full fp32 fsdp $gpus" "$gpus" "$gpus" --strategy fsdp --precision fp32 "${full[@]}" "${measure[@]}"
say "done: $([[ $failed == 0 ]] && echo all good || echo SOMETHING FAILED)"
exit "$failed"
