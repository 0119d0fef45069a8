#!/usr/bin/env python3
"""A peer's generation speed: transformers' generate() on the weights that bench_generate measures, and whether its answers hold.

  LLMFT_BENCH_MODEL=MODEL LLMFT_BENCH_ANSWERS=answers.jsonl build/release/bench/bench_generate --benchmark_filter='batch_(1|32|128)/'
  python3 tools/peers/generate_bench.py --model MODEL --answers answers.jsonl [--new 256]

bf16, greedy, random prompts of --prompt tokens. With --new below 256 the time of 256 new tokens is that of the shorter run and its
time a step for the rest (measured between two lengths): new_tok_s_256 then is an estimate, and a high one, as later steps are slower.
--answers: what bench_generate said is read by the same model in one pass, in bf16 and in fp32: `equal` is the share of tokens that
it would have chosen there too, `gap` how far the others lie below its own choice at most (in logits), and `own_bf16_equal` the share
where its own choices in bf16 and fp32 agree, which is what rounding leaves of any bf16 answer.
Prints lines "RESULT {json}".
"""
import argparse
import json
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--model", required=True)
p.add_argument("--batches", default="1,32,128")
p.add_argument("--prompt", type=int, default=256)
p.add_argument("--new", type=int, default=256)
p.add_argument("--short", type=int, default=8, help="new tokens of the shorter run (the warm-up too)")
p.add_argument("--answers", help="a file of bench_generate")
p.add_argument("--checked", type=int, default=8, help="answers of each batch size that are checked")
p.add_argument("--device", default="cuda")
a = p.parse_args()

import torch
import transformers

started = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16).to(a.device).eval()
model.generation_config.eos_token_id = None
model.generation_config.pad_token_id = 0
sync = torch.cuda.synchronize if a.device == "cuda" else lambda: None
versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
vocabulary = model.config.vocab_size
print("RESULT " + json.dumps({"loaded_s": round(time.perf_counter() - started, 1), "versions": versions}), flush=True)


def generate(ids, new):
    sync()
    begin = time.perf_counter()
    with torch.no_grad():
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False)
    sync()
    return time.perf_counter() - begin


for batch in (int(b) for b in a.batches.split(",") if b):
    ids = torch.randint(0, vocabulary, (batch, a.prompt), device=a.device)
    generate(ids, a.short)
    short, long = generate(ids, a.short), generate(ids, a.new)
    step = (long - short) / (a.new - a.short) if a.new > a.short else long / a.new
    whole = long + max(0, 256 - a.new) * step
    print("RESULT " + json.dumps({"impl": "hf_generate", "batch": batch, "prompt": a.prompt, "new": a.new, "s": round(long, 2),
                                  "new_tok_s": round(batch * a.new / long, 1), "ms_a_step": round(1e3 * step, 2),
                                  "new_tok_s_256": round(batch * 256 / whole, 1), "measured_256": a.new >= 256}), flush=True)



def choices(row):
    """Of every place of the answer: the model's choice, and how far the answer's token lies below it."""
    answer = torch.tensor(row["answer"], device=a.device)
    with torch.no_grad():
        logits = model(torch.tensor([row["prompt"] + row["answer"]], device=a.device)).logits[0, len(row["prompt"]) - 1:-1].float()
    top, choice = logits.max(-1)
    return choice, choice == answer, top - logits.gather(-1, answer[:, None])[:, 0]


if a.answers:
    by_batch = {}
    for line in open(a.answers):
        row = json.loads(line)
        by_batch.setdefault(row["batch"], []).append(row)
    chosen = {}
    for kind in ("bf16", "fp32"):
        if kind == "fp32":
            model = model.float()
        for batch, rows in sorted(by_batch.items()):
            found = [choices(row) for row in rows[:a.checked]]
            equal, gap = torch.cat([f[1] for f in found]), torch.cat([f[2] for f in found])
            result = {"of_batch": batch, "answers": len(found), "tokens": len(equal), "read_in": kind,
                      "equal": round(float(equal.float().mean()), 4), "gap": round(float(gap.max()), 4)}
            all_chosen = torch.cat([f[0] for f in found])
            if kind == "fp32":
                result["own_bf16_equal"] = round(float((all_chosen == chosen[batch]).float().mean()), 4)
            chosen[batch] = all_chosen
            print("RESULT " + json.dumps(result), flush=True)
