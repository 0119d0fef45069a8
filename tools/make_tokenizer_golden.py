#!/usr/bin/env python3
"""Ids that the real tiktoken and the real sentencepiece give, for llmft's tests.

  make_tokenizer_golden.py --llama3 PATH/tokenizer.model

writes tests/golden/tokenizer_llama3/cases.jsonl        {text, ids, special_ids where they differ}; the file itself is
                                                        Meta's, 2 MB under its own licence, and is not kept here
       tests/golden/tokenizer_sentencepiece/            tokenizer.model, a small model of Llama 2's kind trained on
                                                        inputs/tiny/sample.parquet, and cases.jsonl

Needs: tiktoken 0.14.0, sentencepiece, pyarrow. Meta's file is in the llama-models wheel.
"""
import argparse
import io
import json
import pathlib
import random

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# One line a trap: entries that merging cannot reach, white space, contractions, numbers, marks, newlines, specials.
TRICKY = [
    " Việt", "Việt", "x Việt", " ViệtNam", " например", " структура", "структура", " desarrollo", "Hello world",
    "  a", "   a", "\t a", " \ta", "\u3000a", "\u3000\u3000a", "a  ", "a \n b", "a\n  b", "a\r\n\r\nb", "\n \n  c", " \n", "\n\n\n",
    "a   .", "a \t.", " .b", ".b", "..b", " ..b", "!\n\n \n!", "!\r\n  !", "1 2  3", "  1", "\xa0\xa0é", "a\u2028b", "\x85x",
    "it's IT'S it'\u017f IT'\u017f we'll WE'LL we'lL they'd I've I'M you'RE", " 's", "'s", "''s", "'sx", "'\u017fx", "x'ss", "!'s",
    "1's", "\t's", "it\u2019s", "'\u212a", "'l", "'ll", "'LLama", "'re're",
    "1", "12", "123", "1234", "1234567", " 1234", "٣٢١٠", "²³¹⁴", "ⅧⅨⅩⅪ", "𝟙𝟚𝟛𝟜", "3.14159", "1,000,000",
    "नमस्ते", "שָׁלוֹם", "e\u0301e", "\u0301e", "สวัสดี", "안녕하세요", "你好，世界", "こんにちは", "مرحبا",
    "\u200b\u200b", "\ufeffa", "\u180ea", "\x1c\x1da", "a\x00b", "\x7f", "👩\u200d👩\u200d👧", "😀😀 😀", "𝒜𝒷", "\U0001E6C0\U00010D6F\U0001CCF0",
    "<|eot_id|>", "a<|begin_of_text|>b", "<|reserved_special_token_0|><|reserved_special_token_245|>", "<|eot_id|", "<<|eot_id|>>",
    " <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "", " ", "a" * 15, "a" * 16, "a" * 17, "ab" * 300, " " * 200,
    "x" + " " * 63 + "y", "x" + " " * 64 + "y", "é" * 33, "-" * 100, "\n" * 70 + "z", "=" * 62 + "'s", "7" * 65, "٣" * 40,
]  # fmt: skip
ALPHABET = list("aZsl19 \t\r\n.!'\"é中٣²\u3000\u0301😀") + ["  ", "\r\n", "'s", "'LL", "'\u017f", "<|eot_id|>", " Việt", "\xa0"]


def strings(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    drawn = ("".join(rng.choices(ALPHABET, k=rng.randint(2, 16))) for _ in range(count))
    return list(dict.fromkeys([*TRICKY, *drawn]))


def write_lines(path: pathlib.Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="ascii")
    print(f"{path}: {len(records)} strings")


def llama3(model: pathlib.Path) -> None:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(model))
    names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1",
             "finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag",
             "image"]  # fmt: skip
    names += [f"reserved_special_token_{i}" for i in range(2, 2 + 256 - len(names))]
    special = {f"<|{name}|>": len(ranks) + i for i, name in enumerate(names)}
    encoding = tiktoken.Encoding("llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)
    records = []
    for text in strings(1, 300):
        record = {"text": text, "ids": encoding.encode_ordinary(text)}
        with_special = encoding.encode(text, allowed_special="all")
        if with_special != record["ids"]:
            record["special_ids"] = with_special
        records.append(record)
    write_lines(ROOT / "tests/golden/tokenizer_llama3/cases.jsonl", records)


def sentencepiece() -> None:
    import pyarrow.parquet as pq
    import sentencepiece as sp

    rows = pq.read_table(ROOT / "inputs/tiny/sample.parquet").to_pylist()[:600]
    text = [line for row in rows for part in ("question", "response") for line in row[part].split("\n") if line.strip()]
    model = io.BytesIO()
    sp.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=480, model_type="bpe", byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, user_defined_symbols=["[SEP]"], character_coverage=0.99, num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    folder = ROOT / "tests/golden/tokenizer_sentencepiece"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sp.SentencePieceProcessor(model_proto=model.getvalue())
    texts = strings(2, 60) + ["Hello world", " leading", "<s>a</s>", "a[SEP]b", *text[:20]]
    texts = [t for t in dict.fromkeys(texts) if "\x00" not in t]
    write_lines(folder / "cases.jsonl", [{"text": t, "ids": processor.encode(t)} for t in texts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama3", type=pathlib.Path, required=True, metavar="FILE", help="Meta's tokenizer.model")
    args = parser.parse_args()
    llama3(args.llama3)
    sentencepiece()


if __name__ == "__main__":
    main()
