#!/usr/bin/env python3
"""Reference values of transformers and PEFT at the exact shape of Llama 3.2-1B, for the test that a GPU computes them
too. Runs on a machine with a GPU, torch, transformers and peft; makes a random model unless one is named.

  python3 tools/make_parity_1b.py /tmp/parity [--model FOLDER]
  LLMFT_PARITY_1B=/tmp/parity test_train --test-case='*exact 1B shape*'

The references are float32 (no TF32). Beside them stand the errors of PEFT's own bf16 run (autocast over float32
weights) against the same references: how far bf16 may be off is then not a guess.
"""
import argparse
import itertools
import json
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

LENGTHS, STARTS = [1024, 700, 333, 512, 40], [560, 100, 20, 300, 7]
CURVE_STEPS, WARMUP, CYCLE, LR = 200, 10, 8, 2e-4


def make_model(folder):
    config = LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
        tie_word_embeddings=True, bos_token_id=128000, eos_token_id=128001,
        rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=8192))
    torch.manual_seed(0)
    with torch.device("cuda"):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def sequences(seed, lengths, starts):
    """Arithmetic progressions of tokens with noise: something to learn."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high: int(torch.randint(0, high, (1,), generator=generator))
    made = []
    for length, start in zip(lengths, starts):
        first, step = draw(120000), 1 + draw(5)
        tokens = [(first + step * i) % 120000 for i in range(length)]
        made.append({"tokens": [draw(120000) if draw(100) < 15 else t for t in tokens], "loss_start": start})
    return made


def forward(model, batch, bf16):
    """Mean loss over the supervised tokens and the logits of all rows; neighbours of one length go together."""
    total, logits = 0.0, []
    for _, group in itertools.groupby(batch, key=lambda s: len(s["tokens"])):
        group = list(group)
        ids = torch.tensor([s["tokens"] for s in group], device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bf16):
            rows = model(input_ids=ids, use_cache=False).logits.float()
        for i, s in enumerate(group):
            start = s["loss_start"]
            total = total + torch.nn.functional.cross_entropy(rows[i, start - 1:-1], ids[i, start:], reduction="sum")
        logits.append(rows.detach().flatten(0, 1))
    return total / sum(len(s["tokens"]) - s["loss_start"] for s in batch), torch.cat(logits)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    folder = args.model or out / "model"
    if not (folder / "config.json").exists():
        make_model(folder)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").cuda()
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, bias="none",
                                             target_modules=["q_proj", "v_proj", "o_proj"]))
    trained = {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}
    model.save_pretrained(out / "initial_adapter")
    generator = torch.Generator(device="cuda").manual_seed(2)
    start = {n: p.detach().clone() for n, p in trained.items()}
    with torch.no_grad():
        for name, p in trained.items():
            if "lora_B" in name:
                p.copy_(0.02 * torch.randn(p.shape, generator=generator, device="cuda"))
    model.save_pretrained(out / "adapter")

    batch = sequences(3, LENGTHS, STARTS)
    reference = {}
    for bf16 in (False, True):
        model.zero_grad()
        loss, logits = forward(model, batch, bf16)
        loss.backward()
        rows = list(range(0, logits.shape[0], 37))
        result = {"loss": loss.item(), "logits": logits[rows], "grads": {n: p.grad.clone() for n, p in trained.items()}}
        if not bf16:
            reference = result
    grads = lambda r: torch.cat([g.flatten() for g in r["grads"].values()])
    errors = {"loss": abs(result["loss"] - reference["loss"]) / reference["loss"],
              "logits": relative(result["logits"], reference["logits"]), "grads": relative(grads(result), grads(reference))}
    save_file({"logits": reference["logits"].cpu().contiguous(),
               **{n: g.cpu().contiguous() for n, g in reference["grads"].items()}}, out / "reference.safetensors")

    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(start[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    batches = [sequences(100 + i, [512] * 4, [230] * 4) for i in range(CYCLE)]
    steps = []
    for i in range(CURVE_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (i + 1) / WARMUP)
        optimizer.zero_grad()
        loss, _ = forward(model, batches[i % CYCLE], True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0).item()
        optimizer.step()
        steps.append({"loss": loss.item(), "grad_norm": norm, "lr": optimizer.param_groups[0]["lr"]})

    (out / "parity.json").write_text(json.dumps(
        {"model": str(folder.resolve()), "batch": batch, "rows": rows, "loss": reference["loss"], "bf16_errors": errors,
         "curve": {"batches": batches, "steps": steps, "clip": 1.0}}))
    print(f"loss {reference['loss']:.6f}, PEFT's bf16 errors {errors}")
    print(f"{CURVE_STEPS} steps: loss {steps[0]['loss']:.4f} -> {steps[-1]['loss']:.4f}")


if __name__ == "__main__":
    main()
