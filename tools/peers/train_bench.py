#!/usr/bin/env python3
"""A peer's training speed: fine-tuning a random Llama with transformers and PEFT, the same with Liger's kernels, or with Unsloth.

  train_bench.py --impl hf --prec bf16 --batch 8 --seq 1024 --model MODEL
  train_bench.py --impl unsloth --prec bf16 --batch 20 --seq 512 --rank 64 --model MODEL --table benchmarks.csv
  python3 -m torch.distributed.run --standalone --nproc-per-node 2 train_bench.py --impl liger --prec bf16w --batch 16 --dist fsdp ...

MODEL: a folder of Llama 3.2-1B's shape; its config.json is read, and by Unsloth its weights and tokenizer too (tools/random_model.py
makes one). Batches of full sequences, the last 45 % of each supervised, or with --lengths openorca of lengths drawn like OpenOrca's
(lognormal, median 320, 16 to 2048), padded to the longest as Hugging Face's collator does; tok_s counts no padding. LoRA on q, v and
o, alpha = 2 r, or --full; AdamW, gradients clipped to norm 1. fp16 and bf16: f32 weights and autocast (fp16: and GradScaler); bf16w:
bf16 weights; Unsloth: weights of that type. fsdp is FSDP2 (fully_shard) with bf16 parameters and f32 reduction. Rank 0 prints a line
"RESULT {json}": tok_s of all ranks, ms (median step), alloc_GB (peak of rank 0), first_step_s (from the imports to the end of the
first step), version. --table appends it as a row with the command "peer" to a table that llmft has begun.
"""
import argparse
import csv
import datetime
import json
import math
import os
import pathlib
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--impl", choices=("hf", "liger", "unsloth"), default="hf")
p.add_argument("--prec", choices=("fp32", "tf32", "fp16", "bf16", "bf16w"), default="bf16")
p.add_argument("--batch", type=int, default=8, help="sequences a rank and step")
p.add_argument("--seq", type=int, default=1024)
p.add_argument("--steps", type=int, default=8, help="timed, after --warmup")
p.add_argument("--warmup", type=int, default=3)
p.add_argument("--rank", type=int, default=16, help="of the adapter")
p.add_argument("--full", action="store_true")
p.add_argument("--dist", choices=("", "ddp", "fsdp"), default="")
p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
p.add_argument("--lengths", choices=("fixed", "openorca"), default="fixed")
p.add_argument("--model", type=pathlib.Path, required=True, help="the model's folder")
p.add_argument("--table", type=pathlib.Path, help="a benchmarks.csv to append to")
p.add_argument("--name", help="of the run, in the table")
a = p.parse_args()
started = time.perf_counter()

if a.impl == "unsloth":  # before transformers, which it changes
    from unsloth import FastLanguageModel

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

cuda = a.device == "cuda"
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
if cuda:
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = a.prec == "tf32"
version = f"transformers {transformers.__version__}, torch {torch.__version__}"
if a.impl == "liger":
    import importlib.metadata

    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(rope=True, swiglu=True, rms_norm=True, cross_entropy=False, fused_linear_cross_entropy=True)
    version = f"liger-kernel {importlib.metadata.version('liger-kernel')}, {version}"
if a.dist:
    torch.distributed.init_process_group("nccl" if cuda else "gloo")

torch.manual_seed(0)
with open(a.model / "config.json") as f:
    config = LlamaConfig(**{k: v for k, v in json.load(f).items() if k not in ("architectures", "torch_dtype")})
config._attn_implementation = "sdpa"
autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(a.prec)
targets = ["q_proj", "v_proj", "o_proj"]
if a.impl == "unsloth":
    import importlib.metadata

    version = f"unsloth {importlib.metadata.version('unsloth')}, {version}"
    model, _ = FastLanguageModel.from_pretrained(str(a.model), max_seq_length=max(a.seq, 2048), load_in_4bit=False, full_finetuning=a.full,
                                                 dtype=torch.float16 if a.prec == "fp16" else torch.bfloat16)
    if not a.full:
        model = FastLanguageModel.get_peft_model(model, r=a.rank, target_modules=targets, lora_alpha=2 * a.rank, lora_dropout=0, bias="none",
                                                 use_gradient_checkpointing=False)
    FastLanguageModel.for_training(model)
else:
    with torch.device(a.device):
        model = LlamaForCausalLM(config).to(torch.bfloat16 if a.prec == "bf16w" else torch.float32)
if not a.full and a.impl != "unsloth":
    model = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, lora_dropout=0.0, task_type="CAUSAL_LM",
                                             target_modules=targets))
model.config.use_cache = False
model.train()
if a.dist == "ddp":
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()] if cuda else None)
elif a.dist == "fsdp":
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    policy = MixedPrecisionPolicy(param_dtype=autocast, reduce_dtype=torch.float32) if autocast else MixedPrecisionPolicy()
    for module in list(model.modules()):
        if isinstance(module, LlamaDecoderLayer):
            fully_shard(module, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    autocast = None
parameters = [q for q in model.parameters() if q.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=2e-4, fused=cuda)
scaler = torch.amp.GradScaler(a.device, enabled=a.prec == "fp16" and a.impl != "unsloth")
generator = torch.Generator().manual_seed(1 + rank)


def synchronize():
    if cuda:
        torch.cuda.synchronize()


def make_batch():
    """What the model is called with, and how many tokens of it are real."""
    if a.lengths == "fixed":
        lengths, width = [a.seq] * a.batch, a.seq
    else:
        drawn = torch.exp(torch.randn(a.batch, generator=generator) * 0.75 + math.log(320))
        lengths = drawn.clamp(16, 2048).int().tolist()
        width = (max(lengths) + 7) // 8 * 8
    ids = torch.randint(0, config.vocab_size - 256, (a.batch, width), generator=generator)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for i, n in enumerate(lengths):
        labels[i, int(n * 0.55) : n] = ids[i, int(n * 0.55) : n]
        mask[i, :n] = 1
    batch = {"input_ids": ids.to(a.device), "labels": labels.to(a.device)}
    if a.lengths != "fixed":
        batch["attention_mask"] = mask.to(a.device)
    return batch, sum(lengths)


times, tokens, loss, first_step = [], [], 0.0, None
for step in range(a.warmup + a.steps):
    batch, real = make_batch()
    synchronize()
    start = time.perf_counter()
    with torch.autocast(a.device, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        out = model(**batch).loss
    scaler.scale(out).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    loss = out.item()
    synchronize()
    first_step = first_step or time.perf_counter() - started
    if step >= a.warmup:
        times.append(time.perf_counter() - start)
        tokens.append(real)
median = sorted(times)[len(times) // 2]
tok_s = world * (tokens[0] / median if a.lengths == "fixed" else sum(tokens) / sum(times))
peak = torch.cuda.max_memory_allocated() if cuda else 0


def append_row():
    """In the form of llmft's rows: what a peer does not tell is empty."""
    with open(a.table, newline="") as f:
        rows = csv.DictReader(f)
        header, device = rows.fieldnames, next((row["device"] for row in rows), "")
    row = dict.fromkeys(header, "") | {
        "time_utc": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "run": a.name or f"peer-{a.impl}-{a.prec}-{a.batch}x{a.seq if a.lengths == 'fixed' else a.lengths}",
        "host": os.uname().nodename, "device": device, "version": version, "command": "peer",
        "precision": "bf16" if a.prec == "bf16w" else a.prec, "strategy": a.dist or "none", "mode": "full" if a.full else "lora",
        "adapter_rank": 0 if a.full else a.rank, "model": a.model.name, "data": a.lengths if a.lengths != "fixed" else f"fixed-{a.seq}",
        "ranks": world, "nodes": 1, "pack_tokens": a.batch * a.seq, "batch_packs": world, "steps": len(times),
        "samples": world * a.batch * len(times), "tokens": world * sum(tokens), "samples_per_s": world * a.batch * len(times) / sum(times),
        "tokens_per_s": round(tok_s, 1), "step_time_median_s": median, "peak_memory_bytes": peak, "loss_last": loss}
    if a.lengths == "fixed":
        row["samples_per_s"] = tok_s / a.seq
    longest = a.seq if a.lengths == "fixed" else 2048
    later = {"adapter_alpha": "" if a.full else 2 * a.rank, "sample_length_mean": sum(tokens) / (a.batch * len(times)),
             "max_length": longest, "padded_tokens_per_s": row["samples_per_s"] * longest, "vocab_size": config.vocab_size}
    row |= {k: v for k, v in later.items() if k in header}
    with open(a.table, "a", newline="") as f:
        csv.writer(f, lineterminator="\n").writerow([row[c] for c in header])


if rank == 0:
    print("RESULT " + json.dumps({
        "impl": a.impl, "prec": a.prec, "dist": a.dist, "full": a.full, "world": world, "B": a.batch, "S": a.seq, "steps": len(times),
        "lengths": a.lengths, "tok_s": round(tok_s), "ms": round(1e3 * median, 2), "loss": round(loss, 4), "version": version,
        "alloc_GB": round(peak / 1e9, 2), "first_step_s": round(first_step, 1)}), flush=True)
    if a.table:
        append_row()
if a.dist:
    torch.distributed.destroy_process_group()
