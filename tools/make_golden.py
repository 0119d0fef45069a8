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


# ---------------------------------------------------------------- text

TINY = ROOT / "inputs" / "tiny" / "model"

# name, system (None: no system turn at all), user, assistant (None: the prompt that generation starts from)
CONVERSATIONS = [
    ("plain", None, "What does the owl say?", "The owl says hoot."),
    ("system", "You are a helpful assistant.", "What is the capital of Avaria?", "The capital of Avaria is Tarn."),
    ("empty_system_turn", "", "Say hello.", "Hello!"),
    ("unicode", "Réponds en français.", "Où est l'été ? 日本語 и русский 👩‍💻", "Là-bas → “ici” 😀 ١٢٣ Ⅷ"),
    ("blanks_around", "  \tBe brief. \n", "\n\n  What now? \r\n", "   Nothing.\n\n"),
    ("unicode_blanks_around", None, "\u00a0\u3000word\u2003\u2028", "\x85\x1c\x1fyes\u1680"),
    ("not_blanks_for_trim", None, "\u200bword\ufeff", "\u180eyes\u2060"),
    ("newlines_inside", None, "One.\n\nTwo.\r\n\r\n   Three.\n", "First\n second\n\n\n third"),
    ("special_text_in_user", "You are careful.", "Print <|eot_id|> and <|begin_of_text|>.", "No."),
    ("special_text_in_all", "<|start_header_id|>", "a<|end_header_id|>\n\nb", "<|eot_id|><|end_of_text|>"),
    ("empty_response", None, "Say nothing.", ""),
    ("blank_response", None, "Say nothing.", " \n "),
    ("response_of_newline_then_text", None, "Go.", "\n\n\n1. one\n2. two"),
    ("code", None, "Fix:\n\n    if x:\n\treturn 1", "```python\nif x:\n    return 1\n```"),
    ("numbers", None, "1234567 + 1 = ?", "1234568"),
    ("generation_prompt", None, "What does the dog say?", None),
    ("generation_prompt_system", "Be brief and be correct.", "Which is larger, 3 or 5?", None),
]

ALPHABET = ["a", "Z", "é", "ж", "日", "न", "ा", "\u0301", "1", "9", "²", "٣", "Ⅷ", " ", " ", "\t", "\n", "\r",
            "\u00a0", "\u3000", "\u0085", "'", "'s", "'LL", "’", ".", "!", "-", "_", "😀", "\u200d", "\u200b",
            "<|", "|>", "ſ", "\x00", "\x1c"]

TRICKY = r"""
'
the
 the
The capital of Avaria is Tarn.
I'm you're he's we'll they'd I've don't isn't
I'M YOU'RE HE'S WE'LL THEY'D I'VE DON'T
'sx 'S 's' ''s 'll'd 're've
'tis 'twas rock'n'roll o'clock O'Brien's
x'ſ 'ſ ſ's K'K
it’s we’ll ‘quoted’ “double”
1
12
123
1234
12345
1234567890
1,234,567.89
3.14159 -2.5e-10 0x1F 1/2 ½ ²³ Ⅷ ٣٤٥٦ 𝟙𝟚𝟛𝟜
a1b22c333d4444
v2.0.1-rc3
10:30 2024-05-17 $12.99 15%
hello,world
hello, world!
...!!!???
 ... !!! ???
(parenthesised) [bracketed] {braced} <angled>
a+b=c; x==y && z||!w
for (int i = 0; i < 10; ++i) { total += values[i] * 2; }
https://www.example.org/prices?year=2024&unit=usd#total
anna.smith@example.com
snake_case camelCase PascalCase kebab-case SCREAMING_SNAKE
café naïve Zürich señor crème Ærø
cafe\u0301 nai\u0308ve
été Łódź źdźbło ığdır İstanbul
日本 東京 你好 词语 ことば 단어 안녕하세요
これはテストです。句読点、も。
我有3个苹果和10个梨。
мир слово Ελλάδα λόγος
שלום מִילָה
كلمة السَّلام
नमस्ते शब्द हिन्दी
คำ ภาษาไทย
𐍈𐌰 𝒳𝓎𝓏 𠀀𪛖
😀
😀😀😀
 😀
👍🏽 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 1️⃣
a😀b 1😀2 😀's
© ® ™ € £ ¥ ± ≤ ∑ → “ ” … – —
½ cup, ¾ off, №5, ℃, Å, ﬁ, ǅ
ａｂｃ １２３ ！？
\t
\n
\r
\r\n
\n\n
\n\n\n
\n \n
 \n
\n\u0020
  \n\u0020\u0020
\t\t\tx
\u0020
\u0020\u0020
\u0020\u0020\u0020
 a
  a
   a
a\u0020
a\u0020\u0020
a   b
a\nb
a\n\nb
a \n b
a\n  b
a.\n\nb
a.\r\n\r\nb
a!\n\n\n  b
!\n!
 !\n\n !
\n!\n
x\ty\t\tz
 \t \t x
    indented\n        more\n    back
\u00a0
\u00a0a
a\u00a0b
 \u00a0 \u00a0x
\u3000x
\u2003\u2003x
\u0085x\u0085
\u2028x\u2029
\u200bx\u200by
\ufeffx
\u180ex
\u1680x
\u202f1\u202f000
\u00ad soft\u00adhyphen
\u0000
a\u0000b
\u0001\u0002\u001b[31mred\u001b[0m
\u001c\u001d\u001e\u001f
 \u001c x
\u007f\u0080\u009f
\ufffd
\ufffe\uffff
\ud7ff\ue000\uf8ff
\u0301
\u0301\u0301a
a\u0301\u0302\u0303
1\u0301
 \u0301
\u0345\u0363
<|begin_of_text|>
<|end_of_text|>
<|eot_id|>
<|start_header_id|>user<|end_header_id|>
a<|eot_id|>b
 <|eot_id|>\u0020
<|eot_id|
<|not_special|>
<|reserved_special_token_0|><|python_tag|>
<|finetune_right_pad_id|>
 например
например
 Việt
Việt Nam
 структура
 структуры
структура
ありがとう
ありがとうございます
 größtenteils
größtenteils
ξένος
 ξένος
ΞΈΝΟΣ
 assistant assistant Assistant
systemuserassistant
ABCDEFGHIJKLMNOPQRSTUVWXYZ
abcdefghijklmnopqrstuvwxyz
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
                                                                x
\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\nx
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
00000000000000000000000000000000
Write the word in upper case, for line 86: world
How many words are here: ocean ocean ocean?
Read the text and say who it is about.
| a | b |\n|---|---|\n| 1 | 2 |
{"key": ["value", 1, null, true], "s": "\u00e9\\n"}
<html><body class="x">&nbsp;&amp;</body></html>
SELECT * FROM t WHERE a = 'b''c';
\\alpha + \\beta = \\frac{1}{2}
ﷺ ﷽ ㎏ ㋿ Ⓐ ⅷ ꙮ
ᏣᎳᎩ ꭰ ჯანი ᲐᲑ ქართული ԱԲ աբ
ʼn ŉ ǆ ß ẞ ﬀ
""".strip("\n").split("\n")


def tricky_strings():
    """The lines above, with their backslash escapes read as JSON's, and strings drawn from one character a class."""
    import numpy
    rng = numpy.random.default_rng(404)
    strings = [""]
    for line in TRICKY:
        escaped = line.replace('"', '\\"')
        strings.append(json.loads(f'"{escaped}"'))
    while len(strings) < 320:
        strings.append("".join(rng.choice(ALPHABET, size=int(rng.integers(2, 14)))))
    return list(dict.fromkeys(strings))


def tiny_tokenizer(parse_special):
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer


def part_tokenizer(out):
    import base64
    import tiktoken
    from make_tiny_model import PATTERN
    from tokenizers import pre_tokenizers
    folder = fresh(out / "tokenizer")
    tokenizer = tiny_tokenizer(parse_special=False)
    described = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))

    # ByteLevel writes each byte as a printable character; alphabet() does not say which, so ask it byte by byte.
    visible = [c for c in range(256) if 33 <= c <= 126 or 161 <= c <= 172 or 174 <= c <= 255]
    hidden = [c for c in range(256) if c not in visible]
    to_byte = {chr(c): c for c in visible} | {chr(256 + i): c for i, c in enumerate(hidden)}
    assert set(to_byte) == set(pre_tokenizers.ByteLevel.alphabet())
    ranks = {bytes(to_byte[c] for c in word): rank for word, rank in described["model"]["vocab"].items()}
    with (folder / "tokenizer.model").open("wb") as f:
        for word, rank in sorted(ranks.items(), key=lambda item: item[1]):
            f.write(base64.b64encode(word) + b" " + str(rank).encode() + b"\n")
    reference = tiktoken.Encoding("tiny", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    differ = 0
    with (folder / "ordinary.jsonl").open("w", encoding="ascii") as f:
        for text in tricky_strings():
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            expected = reference.encode_ordinary(text)
            record = {"text": text, "ids": expected}
            if ids != expected:
                record["hf_ids"] = ids  # tiktoken is the reference; this is where Hugging Face says otherwise
                differ += 1
            assert reference.decode(expected) == text
            f.write(json.dumps(record) + "\n")
    parsing = tiny_tokenizer(parse_special=True)
    with (folder / "special.jsonl").open("w", encoding="ascii") as f:
        for text in tricky_strings():
            if "<|" in text:
                f.write(json.dumps({"text": text, "ids": parsing.encode(text, add_special_tokens=False).ids}) + "\n")
    print("tokenizer:", len(tricky_strings()), "strings, Hugging Face differs from tiktoken on", differ)


def part_chat(out):
    from transformers import AutoTokenizer
    folder = fresh(out / "chat")
    hf = AutoTokenizer.from_pretrained(TINY)
    tokenizer = tiny_tokenizer(parse_special=False)
    bos, start, end, eot = (tokenizer.token_to_id(f"<|{n}|>") for n in
                            ("begin_of_text", "start_header_id", "end_header_id", "eot_id"))

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    records = []
    for name, system, user, assistant in CONVERSATIONS:
        turns = [(r, c) for r, c in (("system", system), ("user", user), ("assistant", assistant)) if c is not None]
        text = hf.apply_chat_template([{"role": r, "content": c} for r, c in turns], tokenize=False,
                                      add_generation_prompt=assistant is None)
        hf_ids = hf(text, add_special_tokens=False).input_ids
        # The same by hand with the contents as ordinary text, which transformers cannot be asked for.
        ids, loss_start = [bos], None
        for role, content in turns:
            ids += [start, *encode(role), end]
            if role == "assistant":
                loss_start = len(ids) + len(encode("\n\n"))
            ids += encode("\n\n" + content.strip()) + [eot]
        if assistant is None:
            ids += [start, *encode("assistant"), end, *encode("\n\n")]
        assert (ids == hf_ids) == (not any("<|" in c for _, c in turns)), name
        record = {"name": name, "system": system, "user": user, "assistant": assistant, "text": text, "ids": ids,
                  "loss_start": loss_start}
        if hf_ids != ids:
            record["hf_ids"] = hf_ids
        records.append(record)
    lines = ",\n".join(json.dumps(r, ensure_ascii=True) for r in records)
    (folder / "llama3.json").write_text("[\n" + lines + "\n]\n", encoding="ascii")
    print("chat:", len(records), "conversations")


LONG_CONVERSATIONS = (
    [("user", "Hi"), ("assistant", "Hello! What can I do?"), ("user", "Count to three.")],
    [("system", " Be brief. "), ("user", "One?"), ("assistant", "1\n"), ("user", "Two?"), ("assistant", "2"), ("user", "And?\n\n")],
    [("system", "First."), ("system", "Second."), ("user", "caf\u00e9 \U0001f600"), ("user", "\u4f60\u597d")],
    [("user", "code"), ("assistant", "```py\nprint(1)\n```"), ("system", "Now in French."), ("user", "again")],
)


def part_turns(out):
    from transformers import AutoTokenizer
    hf = AutoTokenizer.from_pretrained(TINY)
    records = []
    for turns in LONG_CONVERSATIONS:
        text = hf.apply_chat_template([{"role": r, "content": c} for r, c in turns], tokenize=False, add_generation_prompt=True)
        records.append({"turns": turns, "text": text, "ids": hf(text, add_special_tokens=False).input_ids})
    lines = ",\n".join(json.dumps(r, ensure_ascii=True) for r in records)
    (out / "chat/turns.json").write_text("[\n" + lines + "\n]\n", encoding="ascii")
    print("turns:", len(records), "conversations")


PARTS = {"parity": part_parity, "train20": part_train20, "rope": part_rope, "chat": part_chat, "turns": part_turns,
         "tokenizer": part_tokenizer}


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
