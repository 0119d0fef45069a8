"""Greedy answers of transformers to 100 prompts, by the tiny model in float32: tests/golden/generate/greedy.json.

  python tools/make_generation_golden.py        (environment of tools/requirements-golden.txt)

Prompts whose answer hangs on a near tie (two best logits closer than 1e-3) are passed over: either would be right."""
import json
import pathlib

import pyarrow.parquet
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "inputs/tiny/model"
NEW_TOKENS = 32
COUNT = 100


def main():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    rows = pyarrow.parquet.read_table(ROOT / "inputs/tiny/sample.parquet").to_pylist()
    cases = []
    for index, row in enumerate(rows):
        messages = [{"role": "user", "content": row["question"]}]
        if row["system_prompt"]:
            messages.insert(0, {"role": "system", "content": row["system_prompt"]})
        if index % 3 == 0:
            ids = tokenizer(row["question"])["input_ids"]
        else:
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = ids[: 8 + (index * 37) % 300]
        penalty = [1.0, 2.0, 1.6, 3.0][index % 4]  # without one this model repeats itself
        with torch.no_grad():
            out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                                 max_new_tokens=NEW_TOKENS, output_scores=True, return_dict_in_generate=True, pad_token_id=0,
                                 repetition_penalty=penalty)
        top = torch.stack([scores[0].topk(2).values for scores in out.scores])
        if (top[:, 0] - top[:, 1]).min() < 1e-3:
            continue
        answer = out.sequences[0, len(ids):].tolist()
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        stopped = answer[-1] in ends
        if stopped:
            answer.pop()
        cases.append({"penalty": penalty, "prompt": ids, "answer": answer, "finish": "stop" if stopped else "length",
                      "text": tokenizer.decode(answer, skip_special_tokens=True)})
        if len(cases) == COUNT:
            break
    assert len(cases) == COUNT, len(cases)
    path = ROOT / "tests/golden/generate/greedy.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
