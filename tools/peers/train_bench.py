#!/usr/bin/env python3
"""A peer's training speed: fine-tuning a random Llama with transformers and PEFT, or the same with Liger's kernels.

  train_bench.py --impl hf --prec bf16 --batch 8 --seq 1024
  python3 -m torch.distributed.run --standalone --nproc-per-node 2 train_bench.py --impl liger --prec bf16w --batch 16 --dist fsdp

Batches of full sequences, the last 45 % of each supervised; LoRA of rank 16 on q, v and o, or --full; AdamW, gradients clipped to
norm 1. bf16: f32 weights and autocast; bf16w: bf16 weights. fsdp is FSDP2 (fully_shard) with bf16 parameters and f32 reduction.
Rank 0 prints a line "RESULT {json}": tok_s of all ranks, ms (median step), alloc_GB (peak of rank 0), version.
"""
import argparse
import json
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--impl", choices=("hf", "liger"), default="hf")
p.add_argument("--prec", choices=("fp32", "tf32", "bf16", "bf16w"), default="bf16")
p.add_argument("--batch", type=int, default=8, help="sequences a rank and step")
p.add_argument("--seq", type=int, default=1024)
p.add_argument("--steps", type=int, default=8, help="timed, after --warmup")
p.add_argument("--warmup", type=int, default=3)
p.add_argument("--rank", type=int, default=16, help="of the adapter")
p.add_argument("--full", action="store_true")
p.add_argument("--dist", choices=("", "ddp", "fsdp"), default="")
p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
p.add_argument("--config", required=True, help="the model's config.json")
a = p.parse_args()

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
with open(a.config) as f:
    config = LlamaConfig(**{k: v for k, v in json.load(f).items() if k not in ("architectures", "torch_dtype")})
config._attn_implementation = "sdpa"
autocast = torch.bfloat16 if a.prec == "bf16" else None
with torch.device(a.device):
    model = LlamaForCausalLM(config).to(torch.bfloat16 if a.prec == "bf16w" else torch.float32)
if not a.full:
    model = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, lora_dropout=0.0, task_type="CAUSAL_LM",
                                             target_modules=["q_proj", "v_proj", "o_proj"]))
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
generator = torch.Generator().manual_seed(1 + rank)


def synchronize():
    if cuda:
        torch.cuda.synchronize()


times, loss = [], 0.0
for step in range(a.warmup + a.steps):
    ids = torch.randint(0, config.vocab_size - 256, (a.batch, a.seq), generator=generator)
    labels = ids.clone()
    labels[:, : int(a.seq * 0.55)] = -100
    ids, labels = ids.to(a.device), labels.to(a.device)
    synchronize()
    start = time.perf_counter()
    with torch.autocast(a.device, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        out = model(input_ids=ids, labels=labels).loss
    out.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss = out.item()
    synchronize()
    if step >= a.warmup:
        times.append(time.perf_counter() - start)
median = sorted(times)[len(times) // 2]
if rank == 0:
    print("RESULT " + json.dumps({
        "impl": a.impl, "prec": a.prec, "dist": a.dist, "full": a.full, "world": world, "B": a.batch, "S": a.seq, "steps": len(times),
        "tok_s": round(world * a.batch * a.seq / median), "ms": round(1e3 * median, 2), "loss": round(loss, 4), "version": version,
        "alloc_GB": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else 0.0}), flush=True)
if a.dist:
    torch.distributed.destroy_process_group()
