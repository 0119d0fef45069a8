"""Writes the fixtures of this folder's tests.

pages.parquet: two row groups of many small pages that do not line up between columns, dictionary and plain
encoding, nulls. Row i has question "question i", null in every 7th; response is i's digits repeated.

plain_chat.json: the plain template as a chat template of transformers, what apply_chat_template makes of some
conversations with it, and the ids. Needs the packages of tools/requirements-golden.txt.

    python tests/data/make_fixtures.py
"""

import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).resolve().parent
TINY = FOLDER.parents[1] / "inputs/tiny/model"
ROWS = 3000

PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content | trim + '\\n\\n' }}"
    "{% elif message.role == 'user' %}{{ '### Question:\\n' + message.content | trim + '\\n\\n### Response:\\n' }}"
    "{% else %}{{ message.content | trim + eos_token }}{% endif %}{% endfor %}")
CONVERSATIONS = [
    ("", "What does the owl say?", "The owl says hoot."),
    ("You are a helpful assistant.", "What is the capital of Avaria?", "The capital of Avaria is Tarn."),
    (" \tBe brief. \n", "\n\n  What now? \r\n", "   Nothing.\n\n"),
    ("", "\u00a0\u3000word\u2003", "\u0085\u001cyes\u1680"),
    ("Réponds.", "日本語 и русский 👩\u200d💻", "→ “ici” 😀 ١٢٣"),
    ("", "Fix:\n\n    if x:\n\treturn 1", "```python\nif x:\n    return 1\n```"),
    ("", "Go.", "\n\n1. one\n2. two"),
    ("", "Count.", "123456"),
    ("", "Quote.", "'s ok"),
]


def write_pages():
    rows = range(ROWS)
    table = pa.table({
        "response": pa.array([str(i) * (1 + i % 50) for i in rows], pa.large_string()),
        "id": pa.array([f"cot.{i}" for i in rows]),
        "extra": pa.array(rows),
        "question": pa.array([None if i % 7 == 0 else f"question {i}" for i in rows]),
        "system_prompt": pa.array([f"system {i % 5}" for i in rows]).dictionary_encode(),
    })
    pq.write_table(table, FOLDER / "pages.parquet", row_group_size=2000, compression="zstd", data_page_size=1,
                   write_batch_size=64, use_dictionary=["system_prompt"])


def write_plain_chat():
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.eos_token = "<|end_of_text|>"
    records = []
    for system, question, response in CONVERSATIONS:
        turns = [("system", system), ("user", question), ("assistant", response)]
        messages = [{"role": role, "content": text} for role, text in turns if text]
        whole, prompt = (tokenizer.apply_chat_template(part, chat_template=PLAIN, tokenize=False)
                         for part in (messages, messages[:-1]))
        ids, prompt_ids = (tokenizer(text, add_special_tokens=False).input_ids for text in (whole, prompt))
        assert ids[:len(prompt_ids)] == prompt_ids
        records.append({"system": system, "question": question, "response": response, "text": whole, "ids": ids,
                        "loss_start": len(prompt_ids)})
    lines = ",\n".join(json.dumps(record) for record in records)
    (FOLDER / "plain_chat.json").write_text("[\n" + lines + "\n]\n", encoding="ascii")


if __name__ == "__main__":
    write_pages()
    write_plain_chat()
