#!/usr/bin/env python3
"""Writes tests/golden: what torch, transformers, peft and tokenizers say, for llmft's tests to be held against.

Everything is fp32 on the CPU with one thread and eager attention, so that a second run of the same versions writes the
same numbers. Sequences are computed one at a time, positions from 0: that is what a packed batch has to equal.

    python tools/make_golden.py                    # all parts
    python tools/make_golden.py parity train20     # some of: parity train20 rope chat tokenizer

Needs the pinned packages of tools/requirements-golden.txt. tools/README.md lists the files and tensor names.
"""
import argparse
import hashlib
import json
import os
import pathlib
import platform
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

LLAMA3_ROPE = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SEQUENCE_LENGTHS = (7, 19, 33, 12)
LOSS_STARTS = (3, 8, 20, 1)

# Two shapes that differ from inputs/tiny and from each other in whatever a loader can get wrong: head_dim equal to
# hidden/heads or not, tied or not, one file or an index of several, rope written the way of Meta's own config.json
# (rope_theta and rope_scaling) or the way transformers 5 writes it (rope_parameters).
PARITY = {
    "parity_untied": dict(seed=101, heads=4, kv_heads=2, head_dim=24, tied=False, sharded=True, classic_rope=True),
    "parity_tied": dict(seed=202, heads=4, kv_heads=2, head_dim=16, tied=True, sharded=False, classic_rope=False),
}
ADAPTERS = {
    "lora_qvo": dict(r=4, lora_alpha=8, use_rslora=False, target_modules=["q_proj", "v_proj", "o_proj"]),
    "lora_all_rs": dict(r=2, lora_alpha=6, use_rslora=True,
                        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
}
VOCAB = 320


def write_json(path, value, indent=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def save_tensors(path, tensors):
    from safetensors.torch import save_file
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().float().contiguous().clone() for name, t in tensors.items()}, str(path))


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


# ---------------------------------------------------------------- models

def build_model(spec):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=spec["heads"], num_key_value_heads=spec["kv_heads"], head_dim=spec["head_dim"],
        max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=spec["tied"],
        bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1,
        # 16 rather than 8192, so that the scaling changes every frequency band within a 33-token sequence.
        rope_parameters=dict(LLAMA3_ROPE, rope_theta=500000.0, original_max_position_embeddings=16))
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(spec["seed"])
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1.0 + 0.2 * noise if p.dim() == 1 else 0.08 * noise)
    return model.eval()


def save_model(model, spec, path):
    model.save_pretrained(path, max_shard_size="250KB" if spec["sharded"] else "1GB")
    (path / "generation_config.json").unlink(missing_ok=True)
    if spec["classic_rope"]:
        config = json.loads((path / "config.json").read_text())
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        config["torch_dtype"] = config.pop("dtype")
        write_json(path / "config.json", dict(sorted(config.items())), indent=2)


def load_model(path):
    import torch
    from transformers import LlamaForCausalLM
    return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def with_adapter(model, kind, seed, random_b):
    import torch
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(seed)  # PEFT's own initialisation draws from the global generator
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **ADAPTERS[kind])
    peft_model = get_peft_model(model, config)
    if random_b:
        # B is zero at PEFT's start, which would make every gradient of A zero and prove nothing.
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for name, p in peft_model.named_parameters():
                if "lora_B" in name:
                    p.copy_(0.05 * torch.randn(p.shape, generator=generator))
    return peft_model


def save_adapter(peft_model, path, base_name):
    peft_model.peft_config["default"].base_model_name_or_path = base_name
    peft_model.save_pretrained(str(path))
    (path / "README.md").unlink(missing_ok=True)
    # target_modules is a Python set: its order in the file would change from run to run.
    config = json.loads((path / "adapter_config.json").read_text())
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()
    write_json(path / "adapter_config.json", config, indent=2)


def adapter_key(name):
    """A parameter's name in a live PEFT model -> its key in adapter_model.safetensors."""
    return name.replace(".default.", ".")


# ---------------------------------------------------------------- batches, forward

def make_batch(seed, lengths, loss_starts):
    import numpy
    rng = numpy.random.default_rng(seed)
    sequences = []
    for length, start in zip(lengths, loss_starts):
        # Arithmetic progressions with some noise: there is something to learn, and tokens repeat across sequences.
        first, step = int(rng.integers(0, VOCAB)), int(rng.integers(1, 6))
        tokens = [(first + step * i) % (VOCAB - 2) for i in range(length)]
        for i in range(length):
            if rng.random() < 0.15:
                tokens[i] = int(rng.integers(0, VOCAB))
        sequences.append({"tokens": tokens, "loss_start": int(start)})
    return sequences


def packed(sequences):
    offsets = [0]
    for s in sequences:
        offsets.append(offsets[-1] + len(s["tokens"]))
    return {"tokens": [t for s in sequences for t in s["tokens"]],
            "positions": [i for s in sequences for i in range(len(s["tokens"]))],
            "offsets": offsets,
            "loss_start": [s["loss_start"] for s in sequences],
            "supervised_tokens": supervised(sequences)}


def supervised(sequences):
    return sum(len(s["tokens"]) - s["loss_start"] for s in sequences)


def forward(model, sequences, hidden_states=False):
    """Loss over the whole batch (mean over its supervised tokens), logits (T, V), token losses (T), hidden states."""
    import torch
    count = supervised(sequences)
    total, logits, token_losses, hidden = 0.0, [], [], []
    for s in sequences:
        ids = torch.tensor([s["tokens"]])
        out = model(input_ids=ids, use_cache=False, output_hidden_states=hidden_states)
        rows = out.logits[0].float()
        start = s["loss_start"]
        # Row t predicts token t+1, so the first supervised target, at loss_start, belongs to row loss_start-1.
        losses = torch.nn.functional.cross_entropy(rows[start - 1:-1], ids[0, start:], reduction="none")
        total = total + losses.sum()
        logits.append(rows.detach())
        token_losses.append(torch.cat([torch.zeros(start - 1), losses.detach(), torch.zeros(1)]))
        if hidden_states:
            hidden.append([h[0].detach() for h in out.hidden_states])
    loss = total / count
    extra = {f"hidden.{i}": torch.cat([h[i] for h in hidden]) for i in range(len(hidden[0]))} if hidden else {}
    return loss, {"logits": torch.cat(logits), "token_loss": torch.cat(token_losses), **extra}


# ---------------------------------------------------------------- parts

def part_parity(out):
    import torch
    for name, spec in PARITY.items():
        folder = fresh(out / name)
        save_model(build_model(spec), spec, folder / "model")
        sequences = make_batch(spec["seed"] + 7, SEQUENCE_LENGTHS, LOSS_STARTS)
        write_json(folder / "batch.json", packed(sequences), indent=None)

        model = load_model(folder / "model")
        # A config that a reader only half understood would still give numbers: plain RoPE's.
        assert torch.equal(model.model.rotary_emb.inv_freq, build_model(spec).model.rotary_emb.inv_freq)
        loss, tensors = forward(model, sequences, hidden_states=True)
        loss.backward()
        save_tensors(folder / "forward.safetensors", tensors)
        grads = {n: p.grad for n, p in model.named_parameters()}
        save_tensors(folder / "grads.safetensors", grads)
        result = {"loss": loss.item(), "grad_norm": torch.nn.utils.get_total_norm(list(grads.values())).item()}
        write_json(folder / "loss.json", result)

        for kind in ADAPTERS:
            peft_model = with_adapter(load_model(folder / "model"), kind, spec["seed"] + 11, random_b=True)
            save_adapter(peft_model, folder / kind / "adapter", f"tests/golden/{name}/model")
            loss, tensors = forward(peft_model, sequences)
            loss.backward()
            grads = {adapter_key(n): p.grad for n, p in peft_model.named_parameters() if p.requires_grad}
            assert all("lora_" in n for n in grads) and all(g.abs().max() > 0 for g in grads.values())
            save_tensors(folder / kind / "forward.safetensors", {"logits": tensors["logits"]})
            save_tensors(folder / kind / "grads.safetensors", grads)
            write_json(folder / kind / "loss.json", {
                "loss": loss.item(), "grad_norm": torch.nn.utils.get_total_norm(list(grads.values())).item()})
            print(name, kind, loss.item())
        print(name, result)


# A weight decay of 0.01 moves a weight by 4e-5 in these 20 steps, which no loss shows: 0.1, and the final norms, do.
TRAIN_RUNS = {
    "full_tied": dict(base="parity_tied", adapter=None, peak_lr=3e-4, weight_decay=0.01),
    "full_untied": dict(base="parity_untied", adapter=None, peak_lr=3e-4, weight_decay=0.1),
    "lora_qvo_tied": dict(base="parity_tied", adapter="lora_qvo", peak_lr=1e-3, weight_decay=0.01),
    "lora_all_rs_untied": dict(base="parity_untied", adapter="lora_all_rs", peak_lr=1e-3, weight_decay=0.1),
}
# Four batches five times over: the loss falls, so that a wrong update shows in it.
STEPS, WARMUP, CYCLE = 20, 4, 4


def part_train20(out):
    import numpy
    import torch
    from transformers import get_cosine_schedule_with_warmup
    folder = fresh(out / "train20")
    rng = numpy.random.default_rng(303)
    batches = []
    for step in range(CYCLE):
        lengths = rng.integers(6, 29, size=4)
        starts = [int(rng.integers(1, n - 2)) for n in lengths]
        batches.append(make_batch(4000 + step, [int(n) for n in lengths], starts))
    batches = [batches[step % CYCLE] for step in range(STEPS)]
    lines = ",\n".join(json.dumps(b) for b in batches)
    (folder / "batches.json").write_text('{"steps": [\n' + lines + "\n]}\n")

    for run, spec in TRAIN_RUNS.items():
        model = load_model(out / spec["base"] / "model")
        if spec["adapter"]:
            model = with_adapter(model, spec["adapter"], 505, random_b=False)
            save_adapter(model, folder / run / "initial_adapter", f"tests/golden/{spec['base']}/model")
        trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        groups = [{"params": [p for _, p in trainable if p.dim() >= 2], "weight_decay": spec["weight_decay"]},
                  {"params": [p for _, p in trainable if p.dim() < 2], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=spec["peak_lr"], betas=(0.9, 0.999),
                                      eps=1e-8, foreach=False)
        schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS)
        steps = []
        for number, batch in enumerate(batches):
            loss, _ = forward(model, batch)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_([p for _, p in trainable], 1.0)
            steps.append({"step": number + 1, "lr": optimizer.param_groups[0]["lr"], "loss": loss.item(),
                          "grad_norm": norm.item(), "supervised_tokens": supervised(batch)})
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        if spec["adapter"]:
            save_adapter(model, folder / run / "final_adapter", f"tests/golden/{spec['base']}/model")
        final = {adapter_key(n): p.detach().double().norm().item() for n, p in trainable}
        write_json(folder / run / "steps.json", {
            "base": f"{spec['base']}/model", "adapter": spec["adapter"], "steps": steps, "final_l2_norms": final,
            "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
                          "weight_decay": spec["weight_decay"],
                          "decayed": "tensors of two dimensions (embedding, head, linears, lora_A, lora_B); not norms"},
            "schedule": {"name": "cosine", "warmup_steps": WARMUP, "total_steps": STEPS, "peak_lr": spec["peak_lr"],
                         "rule": "transformers get_cosine_schedule_with_warmup: lr of step k (from 1) is lambda(k-1)"},
            "clip_grad_norm": 1.0})
        print(run, [round(s["loss"], 4) for s in steps][::5], [round(s["grad_norm"], 3) for s in steps][::5])


def part_rope(out):
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    folder = fresh(out / "rope")
    shapes = {"llama32_1b": (2048, 32, 64, 8192, 131072), "tiny": (128, 4, 32, 8192, 131072),
              "parity_untied": (64, 4, 24, 16, 512), "parity_tied": (64, 4, 16, 16, 512)}
    positions = [0, 1, 2, 3, 7, 15, 16, 17, 33, 100, 511, 1024, 4095, 8191, 8192, 32768, 131071]
    tensors, described = {}, {}
    for name, (hidden, heads, head_dim, original, longest) in shapes.items():
        rope = dict(LLAMA3_ROPE, rope_theta=500000.0, original_max_position_embeddings=original)
        config = LlamaConfig(hidden_size=hidden, num_attention_heads=heads, head_dim=head_dim,
                             max_position_embeddings=longest, rope_parameters=rope)
        module = LlamaRotaryEmbedding(config)
        cos, sin = module(torch.zeros(1, 1, hidden), torch.tensor([positions]))
        half = head_dim // 2
        assert torch.equal(cos[0, :, :half], cos[0, :, half:])
        tensors[f"{name}.inv_freq"] = module.inv_freq
        tensors[f"{name}.cos"] = cos[0, :, :half]
        tensors[f"{name}.sin"] = sin[0, :, :half]
        described[name] = dict(rope, head_dim=head_dim)
    save_tensors(folder / "rope.safetensors", tensors)
    write_json(folder / "rope.json", {"positions": positions, "configs": described})


PARTS = {"parity": part_parity, "train20": part_train20, "rope": part_rope}


def write_manifest(out):
    from importlib.metadata import version
    packages = ["torch", "transformers", "peft", "tokenizers", "safetensors", "tiktoken", "numpy"]
    files = {str(p.relative_to(out)): {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
             for p in sorted(out.rglob("*")) if p.is_file() and p.name != "manifest.json"}
    write_json(out / "manifest.json", {
        "made_by": "tools/make_golden.py", "arithmetic": "fp32, CPU, one thread, eager attention",
        "python": platform.python_version(), "versions": {p: version(p) for p in packages},
        "bytes": sum(f["bytes"] for f in files.values()), "files": files})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests" / "golden")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for part in args.parts or PARTS:
        PARTS[part](args.out)
    write_manifest(args.out)


if __name__ == "__main__":
    main()
