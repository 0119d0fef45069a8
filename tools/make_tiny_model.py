#!/usr/bin/env python3
"""Makes inputs/tiny/model: a randomly initialised Llama of 1.4 M parameters with a tokenizer of Llama 3's kind.

    python tools/make_sample.py && python tools/make_tiny_model.py

The folder has the files and key names of a Llama 3.2 folder from Hugging Face. The tokenizer is byte-level BPE trained
on the sample and on a page of English below, with Llama 3's split pattern, and its special tokens at the same distance
from the end of the ordinary ones as in Llama 3 (<|begin_of_text|> first, <|eot_id|> tenth, 256 in all), so that code
which counts on those places works here too. The same seed, sample and package versions give the same bytes.

Needs numpy, pyarrow and tokenizers.
"""
import argparse
import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent

VOCAB_SIZE = 2048
SPECIAL_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
                  "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
                  "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
SPECIAL_TOKENS += [f"<|reserved_special_token_{i}|>" for i in range(3, 248)]
ORDINARY = VOCAB_SIZE - len(SPECIAL_TOKENS)

# Llama 3's split pattern, as in Meta's tokenizer.json.
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# The template that Meta ships with Llama 3 Instruct. Llama 3.2 Instruct's own also writes the date of the day into the
# system turn, which would make the same row give other tokens tomorrow; the turns themselves have the same form.
CHAT_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")

# Entries that no sequence of merges reaches, since no split of theirs is in the vocabulary. Llama 3 has 588 of them;
# such an entry is emitted only where it is a whole pre-token, and a tokenizer that just merges gets it wrong.
UNREACHABLE = [" например", " Việt", " структура", "ありがとう", " größtenteils", "ξένος"]

ENGLISH = """\
A model learns from text by guessing what comes next. At first its guesses are no better than chance; after a while it
notices that some words follow others, that a question ends with a mark, and that an answer often repeats a part of the
question. Nothing more is going on, and yet it is enough to be useful.

"Is that all?" you might ask. It isn't, of course: there's the matter of what we've shown it, how long we'll train it,
and whether it's able to say "I don't know" when it doesn't. They're old questions, and you'd be right to ask them. I'm
sure he'd agree; she'd say so too. WE'RE NOT DONE, and THAT'S FINE.

Here is a list of things worth checking before a run starts:

1. The data: 2,400 rows, 4 columns, 0 missing values.
2. The time: it began at 10:30 on 2024-05-17 and took 95.5 seconds (1 minute and 35.5 seconds).
3. The cost: $12.99, or 15% less than the year before; see https://www.example.org/prices?year=2024&unit=usd#total.
4. The people: anna.smith@example.com, Mr. O'Brien, and the team of the second floor.

    for (int i = 0; i < 10; ++i) {
        total += values[i] * 2;  // twice, because both halves count
    }
\tif total == 0:\n\t\treturn None  # nothing to do

Every language has its own ways. The French write l'été, the Germans Straße, the Spanish mañana; Polish has źdźbło and
Turkish ığdır. In Greek one reads λόγος, in Russian слово, in Hebrew מילה, in Arabic كلمة, in Hindi शब्द, in Thai คำ, in
Chinese 词语, in Japanese ことば and in Korean 단어. Then there are signs: €, £, ¥, ©, ±, ≤, ∑, →, “quotes”, ‘single’,
an en dash – and an em dash — and an ellipsis… People also write 😀, 🎉, 👍🏽 and 👩‍💻 in their messages.

The small town lies where two rivers meet. In spring the water is high and the boats stay on land; in summer the
children swim from the old bridge, and their parents sit in the shade and talk about the weather, the harvest and the
price of bread. Nobody is in a hurry. When the train comes, once in the morning and once at night, the whole street can
hear it, and the clock above the station is never quite right.

He said that the work would take about three hours. She thought that it would take a day. They were both wrong, because
the first part was harder than it looked and the second part turned out not to be needed at all. What matters is that
they wrote down what they did, so that the next person could do it again and get the same result.\r
\r
Question: which of these is an example of a good explanation? Answer: the one that someone else can use without asking.

system user assistant You are an assistant that helps people find information. Please explain your answer step by step.
"""


def train_tokenizer(sample):
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    texts = [row[c] for row in pq.read_table(sample).to_pylist() for c in ("system_prompt", "question", "response")]
    trainer = trainers.BpeTrainer(vocab_size=ORDINARY - len(UNREACHABLE), show_progress=False, min_frequency=1,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = [t for t in texts if t]
    # Weighed so that words of the page, each there once, get tokens beside those of the sample's few patterns; the
    # blank line and the names of the roles, which the chat template brings, are one token each, as in Llama 3.
    texts += ["\n\n" + t for t in texts] + [ENGLISH] * 20 + ["system", "user", "assistant"] * 200
    tokenizer.train_from_iterator(texts, trainer)
    ranks = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in UNREACHABLE:
        word = byte_level.pre_tokenize_str(text)[0][0]
        assert not any(word[:i] in ranks and word[i:] in ranks for i in range(1, len(word))), text
        ranks[word] = len(ranks)
    assert len(ranks) == ORDINARY

    # Not the merges that training made, but every split of every token, in the order of its rank: what the conversion
    # of Llama 3's vocabulary has, and what makes merging by pairs equal to tiktoken's merging by byte strings.
    merges = [(word[:i], word[i:]) for word in ranks
              for i in sorted(range(1, len(word)), key=lambda i: (ranks.get(word[:i], 0), ranks.get(word[i:], 0)))
              if word[:i] in ranks and word[i:] in ranks]
    tokenizer.model = models.BPE(vocab=ranks, merges=merges, ignore_merges=True)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    bos = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
        processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                      special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    return tokenizer


def model_config(tokenizer):
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "eos_token_id": tokenizer.token_to_id("<|end_of_text|>"),
        "head_dim": 32, "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02, "intermediate_size": 384,
        "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 4,
        "num_hidden_layers": 6, "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
        "vocab_size": VOCAB_SIZE}


def initial_weights(config, seed):
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        block = f"model.layers.{i}."
        shapes |= {block + "input_layernorm.weight": (hidden,), block + "mlp.down_proj.weight": (hidden, ffn),
                   block + "mlp.gate_proj.weight": (ffn, hidden), block + "mlp.up_proj.weight": (ffn, hidden),
                   block + "post_attention_layernorm.weight": (hidden,),
                   block + "self_attn.k_proj.weight": (kv, hidden), block + "self_attn.o_proj.weight": (hidden, q),
                   block + "self_attn.q_proj.weight": (q, hidden), block + "self_attn.v_proj.weight": (kv, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    rng = np.random.Generator(np.random.PCG64(seed))
    std = config["initializer_range"]
    return {name: np.ones(shape, np.float32) if len(shape) == 1 else
            rng.standard_normal(shape, dtype=np.float32) * np.float32(std) for name, shape in shapes.items()}


def bf16_bits(values):
    """fp32 -> bf16, to nearest, ties to even. No NaN comes here."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, tensors):
    """In bf16, by hand: numpy has no bf16, and the safetensors package would bring torch for it."""
    header, payload, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, values in tensors.items():
        data = bf16_bits(values).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [offset, offset + len(data)]}
        payload.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(payload))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=pathlib.Path, default=ROOT / "inputs" / "tiny" / "sample.parquet")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "inputs" / "tiny" / "model")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(args.sample)
    tokenizer.save(str(args.out / "tokenizer.json"))
    config = model_config(tokenizer)
    weights = initial_weights(config, args.seed)
    write_safetensors(args.out / "model.safetensors", weights)

    def write(name, value):
        (args.out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    write("config.json", config)
    write("generation_config.json", {
        "bos_token_id": config["bos_token_id"], "do_sample": True, "temperature": 0.6, "top_p": 0.9,
        "eos_token_id": [config["eos_token_id"], tokenizer.token_to_id("<|eot_id|>")]})
    write("tokenizer_config.json", {
        "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": config["max_position_embeddings"], "tokenizer_class": "PreTrainedTokenizerFast"})
    print(f"{args.out}: {sum(w.size for w in weights.values()):,} parameters, {VOCAB_SIZE} tokens")


if __name__ == "__main__":
    main()
