"""`llmft tokenize` against the real tiktoken with Meta's vocabulary: the same ids for every string.

Runs LLMFT_BINARY, else ./llmft. Meta's file is looked for in LLMFT_LLAMA3_TOKENIZER, else in the installed
`llama-models` package; without it, or without tiktoken, the tests that need them are skipped.
"""
import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("LLMFT_BINARY", str(ROOT / "llmft"))
TINY = ROOT / "inputs/tiny/model/tokenizer.json"
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPECIAL = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 2: "<|reserved_special_token_0|>",
           3: "<|reserved_special_token_1|>", 4: "<|finetune_right_pad_id|>", 5: "<|step_id|>",
           6: "<|start_header_id|>", 7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>",
           10: "<|python_tag|>", 11: "<|image|>"}  # fmt: skip
SPECIAL |= {i: f"<|reserved_special_token_{i - 10}|>" for i in range(12, 256)}


def model_file() -> pathlib.Path | None:
    if given := os.environ.get("LLMFT_LLAMA3_TOKENIZER"):
        return pathlib.Path(given)
    spec = importlib.util.find_spec("llama_models")
    path = pathlib.Path(spec.origin).parent / "llama3/tokenizer.model" if spec else None
    return path if path and path.exists() else None


def run(lines, *args: str, tokenizer=None) -> list:
    command = [BINARY, "tokenize", "--tokenizer", str(tokenizer or model_file()), *args]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def failure(text: str | bytes, *args: str) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run([BINARY, "tokenize", *args], input=data, capture_output=True, timeout=60)
    assert done.returncode == 2, (done.returncode, done.stderr)
    return done.stderr.decode()


@pytest.fixture(scope="session")
def reference():
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    if model_file() is None:
        pytest.skip("Meta's tokenizer.model is not here: pip install --no-deps llama-models")
    ranks = load_tiktoken_bpe(str(model_file()))
    special = {name: len(ranks) + i for i, name in SPECIAL.items()}
    return tiktoken.Encoding("llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def assert_same(reference, texts: list[str]) -> None:
    for text, got in zip(texts, run(texts), strict=True):
        want = reference.encode_ordinary(text)
        assert got == want, (text[:200], len(text))


CONTRACTIONS = ["'s", "'S", "'\u017f", "'t", "'T", "'re", "'RE", "'rE", "'ve", "'Ve", "'m", "'M", "'ll", "'LL", "'lL",
                "'d", "'D", "'l", "'r", "'v", "'x", "\u2019s", "'\u212a", "''s", "'s's", "'\u0131"]  # fmt: skip
# One or more of each class that the rule tells apart, of every UTF-8 length.
CLASSES = ["a", "Z", "s", "t", "l", "e", "é", "ß", "д", "中", "あ", "𝒜", "1", "9", "٣", "²", "Ⅷ", "𝟙", " ", "  ", "\t", "\v",
           "\f", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u3000", "\r", "\n", "\r\n", "\n\n", ".", "!", "-", "'",
           "\"", "¡", "…", "“", "😀", "👩\u200d👩", "\u0301", "\u093f", "\u200b", "\ufeff", "\x00", "\x1c", "\x7f",
           "<|eot_id|>"]  # fmt: skip


def test_class_representatives(reference):
    rng = random.Random(1)
    alphabet = CLASSES + CONTRACTIONS
    texts = ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(30000)]
    # runs of one class around the 64-byte blocks
    texts += ["".join(rng.choice(alphabet) * rng.choice((1, 2, 3, 15, 16, 17, 62, 63, 64, 65)) for _ in range(4))
              for _ in range(5000)]  # fmt: skip
    # few classes: every short pattern of white space, punctuation and letters
    few = ["a", "1", " ", "\t", "\n", "\r", ".", "'", "\u3000", "s", "中"]
    texts += ["".join(rng.choices(few, k=rng.randint(1, 12))) for _ in range(30000)]
    assert_same(reference, texts)


def test_random_unicode(reference):
    rng = random.Random(2)
    every = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["".join(map(chr, rng.choices(every, k=rng.randint(1, 60)))) for _ in range(5000)]
    texts += ["".join(map(chr, rng.choices(range(0x3000), k=rng.randint(1, 60)))) for _ in range(10000)]
    texts += ["".join(map(chr, rng.choices(range(0x250), k=rng.randint(1, 60)))) for _ in range(10000)]
    assert_same(reference, texts)


def test_every_code_point(reference):
    """Contexts in which another class would give other ids, for all 1,112,064 code points."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["".join(f"{c}a {c}1{c}\n" for c in points[i : i + 256]) for i in range(0, len(points), 256)]
    assert_same(reference, texts)


def test_every_entry_of_the_vocabulary(reference):
    """588 entries cannot be reached by merging: they appear as whole words only, never inside one."""
    rng = random.Random(3)
    words = [w for b in reference.token_byte_values() if (w := b.decode("utf-8", "ignore"))]
    texts = words + ["x" + w for w in words] + [w + w for w in words[::3]]
    texts += ["".join(rng.choices(words, k=6)) for _ in range(20000)]
    assert_same(reference, texts)
    assert run([" Việt"]) == [[reference.encode_single_token(" Việt")]]
    assert run([" структура"]) == [[107557, 22911]]


def test_words_of_the_table_s_limits(reference):
    """Words of 15, 16, 17 bytes and around, in a text and at its end."""
    rng = random.Random(4)
    letters = "etaoinshrdlucmfwypvbgkqjxzéд中"
    words = ["".join(rng.choices(letters, k=k)) for k in list(range(1, 70)) * 40]
    assert_same(reference, words + [" ".join(rng.choices(words, k=30)) for _ in range(2000)])


def test_many_distinct_words(reference):
    """More distinct words in one process than the table holds: it starts over, and the ids stay the same."""
    rng = random.Random(5)
    texts = [" ".join("".join(rng.choices("abcdefghij0é", k=9)) for _ in range(1000)) for _ in range(60)]
    assert_same(reference, texts + texts[:5])


@pytest.mark.parametrize("unit", ["a", "ab", " ", "\n", "1", "!", "é", "中", "x'", "\u0301", "😀", "z ", "\n "])
def test_long_words_take_no_quadratic_time(reference, unit):
    """tiktoken itself gives up on the longest, so those are checked by their decoded text."""
    assert_same(reference, [unit * (20000 // len(unit))])
    text = unit * (1_000_000 // len(unit.encode()))
    ids = run([text])[0]
    assert reference.decode(ids) == text


def test_random_megabyte_word(reference):
    rng = random.Random(6)
    text = "".join(rng.choices("etaoinshrdlu", k=1_000_000))
    ids = run([text])[0]
    assert reference.decode(ids) == text
    assert_same(reference, ["".join(rng.choices("etaoinshrdlu", k=k)) for k in (63, 64, 65, 100, 499, 500, 501, 30000)])


def test_special_tokens_only_when_asked(reference):
    texts = ["<|eot_id|>", "a<|begin_of_text|><|eot_id|> b", "<|eot_id", "<<|eot_id|>>", "<|reserved_special_token_1|>",
             "<|reserved_special_token_10|>", "<|reserved_special_token_245|>", "<|reserved_special_token_246|>",
             "x  <|image|>  y", "'<|eom_id|>s"]  # fmt: skip
    assert_same(reference, texts)
    rng = random.Random(7)
    names = list(SPECIAL.values())
    texts += ["".join(rng.choices(names + CLASSES + CONTRACTIONS, k=12)) for _ in range(3000)]
    for text, got in zip(texts, run(texts, "--special"), strict=True):
        assert got == reference.encode(text, allowed_special="all"), text
    ids = run(names, "--special")
    assert ids == [[128000 + i] for i in SPECIAL]
    assert run(ids, "--decode") == names


def test_decode_is_the_inverse(reference):
    rng = random.Random(8)
    texts = ["", "Hello world", "naïve café 😀\r\n\t", "\x00"] + ["".join(rng.choices(CLASSES, k=20)) for _ in range(2000)]
    assert run(run(texts), "--decode") == texts
    # ids that end inside a character
    cut = reference.encode_ordinary("\U0001F9FF")[:1]
    assert run([cut], "--decode") == ["\ufffd"]


def test_tiny_tokenizer_round_trip():
    rng = random.Random(9)
    texts = ["".join(rng.choices(CLASSES + CONTRACTIONS, k=20)) for _ in range(2000)]
    ids = run(texts, tokenizer=TINY.parent)
    assert run(ids, "--decode", tokenizer=TINY) == texts


def test_hugging_face_file_of_the_same_vocabulary_gives_the_same_ids(reference, tmp_path):
    """A tokenizer.json as transformers' converter writes it for Meta's file: ids equal tiktoken's."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [b for b in range(256) if b not in printable]
    letter = {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(other)}
    spell = lambda data: "".join(letter[b] for b in data)
    ranks = {reference.decode_single_token_bytes(i): i for i in range(128000)}
    merges = []
    for data in ranks:
        cuts = [(data[:i], data[i:]) for i in range(1, len(data)) if data[:i] in ranks and data[i:] in ranks]
        merges += sorted(cuts, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    whole = {
        "version": "1.0", "normalizer": None,
        "added_tokens": [{"id": 128000 + i, "content": n, "special": True} for i, n in SPECIAL.items()],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "ignore_merges": True, "vocab": {spell(b): r for b, r in ranks.items()},
                  "merges": [f"{spell(a)} {spell(b)}" for a, b in merges]},
    }  # fmt: skip
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(whole))
    rng = random.Random(10)
    words = [w for b in ranks if (w := b.decode("utf-8", "ignore"))]
    parts = words + (CLASSES + CONTRACTIONS) * 1000
    texts = words + ["".join(rng.choices(parts, k=8)) for _ in range(20000)]
    for text, got in zip(texts, run(texts, tokenizer=file), strict=True):
        assert got == reference.encode_ordinary(text), text
    # without ignore_merges an entry that merging cannot reach is never emitted
    whole["model"]["ignore_merges"] = False
    file.write_text(json.dumps(whole))
    assert len(run([" Việt"], tokenizer=tmp_path)[0]) > 1


def test_unicode_tables_are_those_of_tiktoken():
    tiktoken = pytest.importorskip("tiktoken")
    if tiktoken.__version__ != "0.14.0":
        pytest.skip("the tables are pinned to tiktoken 0.14.0")
    subprocess.run([sys.executable, str(ROOT / "tools/make_unicode_tables.py"), "--check"], check=True)


def test_answers_line_by_line():
    """A program that writes a line and waits for the answer is not left waiting."""
    command = [BINARY, "tokenize", "--tokenizer", str(TINY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for text in ("a", "b", "a b"):
            process.stdin.write(json.dumps(text) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_bad_input():
    tiny = ("--tokenizer", str(TINY))
    assert "stdin:2" in failure('"a"\nb\n', *tiny)
    assert "stdin:1" in failure("[1]\n", *tiny)
    assert "stdin:1" in failure(b'"\xff"\n', *tiny)
    assert "stdin:1" in failure('"\\ud800"\n', *tiny)
    assert "stdin:1" in failure("[" * 300000 + "\n", *tiny)
    assert "stdin:2" in failure("[1]\n[1e999]\n", *tiny, "--decode")
    assert "stdin:3" in failure("[1]\n[2]\n[99999999]\n", *tiny, "--decode")
    assert "stdin:1" in failure("[-1]\n", *tiny, "--decode")
    assert "stdin:1" in failure("[1.5]\n", *tiny, "--decode")
    assert "--tokenizer" in failure("")
    assert "/nowhere" in failure("", "--tokenizer", "/nowhere")
    assert "did you mean" in failure("", *tiny, "--speciall")
    done = subprocess.run([BINARY, "tokenize", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "examples:" in done.stdout
