#!/usr/bin/env python3
"""Models with random weights, tokenizers and samples for checks of machines, without torch and without downloads.

  random_model.py --model gpu/model                                     Llama 3.2-1B's shape; --tiny: four small layers
  random_model.py --samples gpu/fixed.jsonl --count 4000 --length 512   512 tokens each
  random_model.py --samples gpu/real.jsonl --count 8000                 of OpenOrca's lengths: lognormal, median 320, at most 2048
"""
import argparse
import array
import json
import math
import pathlib
import random
import struct

SPECIAL = 256  # tokens at the vocabulary's end, in Llama 3's order
NAMED = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 4: "<|finetune_right_pad_id|>", 6: "<|start_header_id|>",
         7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>"}
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def bf16(value):
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def make_model(folder, tiny):
    """Random weights of Llama 3.2-1B's shape (tiny: four small layers), and a tokenizer of as many ids as it has embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    layers, width, mlp, heads, kv_heads, vocab = (4, 64, 160, 4, 2, 1024) if tiny else (16, 2048, 8192, 32, 8, 128256)
    head = width // heads
    first_special = vocab - SPECIAL
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": width,
        "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": head, "vocab_size": vocab, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "rope_theta": 500000.0, "bos_token_id": first_special,
        "eos_token_id": first_special + 1, "attention_bias": False, "mlp_bias": False,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"}}
    (folder / "config.json").write_text(json.dumps(config, indent=1))

    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for i in range(layers):
        p = f"model.layers.{i}."
        shapes |= {p + "input_layernorm.weight": (width,), p + "post_attention_layernorm.weight": (width,)}
        for name, rows, cols in (("self_attn.q", width, width), ("self_attn.k", kv_heads * head, width),
                                 ("self_attn.v", kv_heads * head, width), ("self_attn.o", width, width),
                                 ("mlp.gate", mlp, width), ("mlp.up", mlp, width), ("mlp.down", width, mlp)):
            shapes[f"{p}{name}_proj.weight"] = (rows, cols)
    random.seed(1)
    values = [bf16(random.uniform(-0.0346, 0.0346)) for _ in range(1 << 14)]  # standard deviation 0.02
    pool = array.array("H", random.choices(values, k=1 << (18 if tiny else 22))).tobytes()
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            left = 2 * math.prod(shape)
            if len(shape) == 1:
                f.write(struct.pack("<H", bf16(1.0)) * shape[0])
                continue
            while left > 0:  # a stretch of the pool from a random place: quick, and no two rows alike
                begin = 2 * random.randrange(len(pool) // 4)
                f.write(pool[begin : begin + left])
                left -= min(left, len(pool) - begin)
    make_tokenizer(folder, vocab)


def make_tokenizer(folder, vocab):
    """tokenizer.json of vocab ids, the last 256 Llama 3's special ones: a byte is a token; the rest are strings of control
    characters that no text has."""
    first_special = vocab - SPECIAL
    spare = iter(range(256, 512))
    characters = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255 else chr(next(spare)) for b in range(256)]
    control = characters[:32]
    entries = {c: i for i, c in enumerate(characters)}
    for i in range(256, first_special):
        entries["".join(control[(i >> shift) % 32] for shift in (15, 10, 5, 0))] = i
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = [NAMED.get(i, f"<|reserved_special_token_{i}|>") for i in range(SPECIAL)]
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": first_special + i, "content": t, **flags} for i, t in enumerate(special)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": entries, "merges": []}}))


def openorca_length():
    """Of a sample; peers are timed on the same distribution (tools/peers/train_bench.py)."""
    return min(max(int(math.exp(random.gauss(math.log(320), 0.75))), 40), 2048)


def write_samples(path, count, length=None):
    """length tokens each (None: of OpenOrca's lengths): 24 of the template, the rest one a letter; 45 % of all are supervised."""
    random.seed(2)
    lengths = [length or openorca_length() for _ in range(count)]
    words = lambda n: "".join(random.choices("abcdefghijklmnopqrstuvwxyz ", k=n - 1)).strip().ljust(n, "x")
    with open(path, "w") as f:
        for i, length in enumerate(lengths):
            answer = int(0.45 * length)
            f.write(json.dumps({"id": str(i), "system_prompt": "", "question": words(length - answer - 24),
                                "response": words(answer)}) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=pathlib.Path, metavar="FOLDER", help="for the model and its tokenizer")
    p.add_argument("--tiny", action="store_true", help="a model of four small layers")
    p.add_argument("--samples", type=pathlib.Path, metavar="FILE", help="for samples, as JSON lines")
    p.add_argument("--count", type=int, default=4000, help="of samples (4000)")
    p.add_argument("--length", type=int, help="tokens of each (OpenOrca's lengths)")
    a = p.parse_args()
    if not (a.model or a.samples):
        p.error("nothing to make: give --model, --samples or both")
    if a.length is not None and a.length < 40:
        p.error(f"--length {a.length}: the template alone takes 24 tokens; give 40 or more")
    if a.model:
        make_model(a.model, a.tiny)
    if a.samples:
        a.samples.parent.mkdir(parents=True, exist_ok=True)
        write_samples(a.samples, a.count, a.length)


if __name__ == "__main__":
    main()
