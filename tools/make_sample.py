#!/usr/bin/env python3
"""Writes a made-up data set in OpenOrca's schema (id, system_prompt, question, response; all strings).

    python tools/make_sample.py                                        # inputs/tiny/sample.parquet, 2,400 rows
    python tools/make_sample.py --rows 3000000 --long 0.5 --out big.parquet

The tasks are ones that a model of 1-2 M parameters learns in a minute or two: facts of a small invented world, copying,
upper case, spelling backwards, counting on, comparing. Answers are short sentences of few patterns; no text is real.

Rows are made a row group at a time, from (seed, number of the row group) alone, so any number of rows fits in memory.
The same seed and options give the same rows, and with the same pyarrow the same bytes. What a reader has to cope with
is there in known shares: --long rows of up to about 200 tokens, 1 row in 20 with text outside ASCII, and 1 row in 200
each with an empty response or repeated exactly (id and all) from earlier in its row group. No other two rows have the
same text: where the tasks' own variety runs out, the question carries the number of a card.

Needs numpy and pyarrow.
"""
import argparse
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "system_prompt", "question", "response")])
TRACKED_ROWS = 20000  # rows whose text is remembered to keep it unique; every later question carries a card number
EMPTY_SHARE, DUPLICATE_SHARE = 1 / 200, 1 / 200

SYSTEM_PROMPTS = [
    "",
    "You are a helpful assistant.",
    "You are an AI assistant. Answer in one short sentence.",
    "You are a teacher. Explain in simple words.",
    "Think step by step and give the answer.",
    "You answer questions about a small world.",
    "Be brief and be correct.",
    "You are a friendly helper who likes words and numbers.",
]
SYSTEM_SHARES = [0.25, 0.2, 0.15, 0.1, 0.1, 0.1, 0.05, 0.05]
ID_PREFIXES = ["flan", "niv", "t0", "cot"]

PLACES = ["Avaria", "Belmora", "Corland", "Dunmere", "Elvania", "Farholt", "Gristan", "Halvia", "Istmar", "Jorvand",
          "Kestria", "Lumenia", "Morvale", "Nordana", "Ostrelle", "Pelland"]
CAPITALS = ["Tarn", "Brook", "Selby", "Quill", "Harrow", "Mint", "Cask", "Fenton", "Orrin", "Pike",
            "Rowan", "Stoke", "Upton", "Vale", "Wick", "Yarrow"]
THINGS = ["bramble", "candle", "door", "engine", "feather", "garden", "hammer", "island", "jacket", "kettle",
          "ladder", "mirror", "needle", "orchard", "pillow", "quarry"]
COLOURS = ["red", "blue", "green", "white", "black", "yellow", "brown", "grey"]
ANIMALS = ["dog", "cat", "cow", "duck", "sheep", "horse", "lion", "frog", "crow", "bee", "owl", "pig"]
SOUNDS = ["woof", "meow", "moo", "quack", "baa", "neigh", "roar", "ribbit", "caw", "buzz", "hoot", "oink"]
NAMES = ["Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ines", "Jack", "Kim", "Leo"]
WORDS = ["apple", "river", "stone", "cloud", "bread", "light", "tiger", "music", "paper", "green", "house", "water",
         "chair", "smile", "grape", "train", "ocean", "table", "sugar", "plant", "world", "night", "sheet", "mouse"]
FOREIGN = ["café", "naïve", "Zürich", "señor", "crème", "Ærø", "日本", "東京", "你好", "안녕", "мир", "Ελλάδα", "😀",
           "🚀", "été", "Łódź", "नमस्ते", "שלום"]
SCENES = [" walked to the market", " read a book by the river", " baked bread for the village", " fixed the old gate",
          " counted the boats", " planted a tree", " wrote a letter home", " sang a quiet song"]
TIMES = ["In the morning, ", "At noon, ", "In the evening, ", "Later, ", "After that, ", "Before lunch, "]
REASONS = [" because it was warm", " because a friend asked", " and nobody minded", " although it rained",
           " and then took a rest", " to help a neighbour"]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]


def choice(rng, values, n, shares=None):
    return rng.choice(len(values), size=n, p=shares)


def take(values, index):
    return pa.array(values, pa.string()).take(pa.array(index))


def join(*parts):
    return pc.binary_join_element_wise(*[pa.scalar(p) if isinstance(p, str) else p for p in parts], pa.scalar(""))


def text_of(numbers):
    return pa.array(numbers).cast(pa.string())


# Each task: (rng, n) -> (questions, responses). Facts pair the lists above by position; colours go round.

def capital(rng, n):
    i, who = choice(rng, PLACES, n), take(NAMES, choice(rng, NAMES, n))
    place, city = take(PLACES, i), take(CAPITALS, i)
    return join(who, " asks: what is the capital of ", place, "?"), join("The capital of ", place, " is ", city, ".")


def colour(rng, n):
    i, who = choice(rng, THINGS, n), take(NAMES, choice(rng, NAMES, n))
    thing, shade = take(THINGS, i), take(COLOURS, i % len(COLOURS))
    return join(who, " asks: what colour is the ", thing, "?"), join("The ", thing, " is ", shade, ".")


def sound(rng, n):
    i, who = choice(rng, ANIMALS, n), take(NAMES, choice(rng, NAMES, n))
    animal, noise = take(ANIMALS, i), take(SOUNDS, i)
    return join("What does the ", animal, " of ", who, " say?"), join("The ", animal, " says ", noise, ".")


def echo(rng, n):
    a, b = take(WORDS, choice(rng, WORDS, n)), take(WORDS, choice(rng, WORDS, n))
    return join("Repeat these words: ", a, " ", b), join("The words are: ", a, " ", b)


def upper(rng, n):
    a = take(WORDS, choice(rng, WORDS, n))
    number = text_of(rng.integers(1, 100, size=n))
    return (join("Write the word in upper case, for line ", number, ": ", a),
            join("In upper case it is ", pc.utf8_upper(a), "."))


def next_letter(rng, n):
    i, who = rng.integers(0, 25, size=n), take(NAMES, choice(rng, NAMES, n))
    return (join(who, " asks: which letter comes after ", take(LETTERS, i), "?"),
            join("After ", take(LETTERS, i), " comes ", take(LETTERS, i + 1), "."))


def next_number(rng, n):
    i = rng.integers(1, 100, size=n)
    now, then = text_of(i), text_of(i + 1)
    return join("Which number comes after ", now, "?"), join("After ", now, " comes ", then, ".")


def reverse(rng, n):
    a, b, c = (take(LETTERS, rng.integers(0, 26, size=n)) for _ in range(3))
    return join("Spell backwards: ", a, " ", b, " ", c), join("Backwards it is ", c, " ", b, " ", a, ".")


def count(rng, n):
    word = take(WORDS, choice(rng, WORDS, n))
    times = rng.integers(1, 6, size=n)
    listed = pc.binary_repeat(join(" ", word), pa.array(times))
    return join("How many words are here:", listed, "?"), join("There are ", text_of(times), " words.")


def compare(rng, n):
    a = rng.integers(1, 100, size=n)
    b = (a + rng.integers(1, 90, size=n) - 1) % 99 + 1
    b = np.where(a == b, a % 99 + 1, b)
    return (join("Which is larger, ", text_of(a), " or ", text_of(b), "?"),
            join("The larger number is ", text_of(np.maximum(a, b)), "."))


def is_animal(rng, n):
    pool = ANIMALS + THINGS
    i, who = choice(rng, pool, n), take(NAMES, choice(rng, NAMES, n))
    word, yes = take(pool, i), pa.array(i < len(ANIMALS))
    return (join(who, " asks: is a ", word, " an animal?"),
            join(pc.if_else(yes, "Yes, a ", "No, a "), word, pc.if_else(yes, " is an animal.", " is not an animal.")))


def foreign(rng, n):
    a, b = take(FOREIGN, choice(rng, FOREIGN, n)), take(FOREIGN, choice(rng, FOREIGN, n))
    return join("Repeat these words: ", a, " ", b), join("The words are: ", a, " ", b)


def story(rng, n):
    """A question over a passage of 4 to 8 sentences; the answer says who it is about and retells the first and last."""
    who = take(NAMES, choice(rng, NAMES, n))
    length = pa.array(rng.integers(4, 9, size=n))
    sentences = []
    for k in range(8):
        s = join(take(TIMES, choice(rng, TIMES, n)), who, take(SCENES, choice(rng, SCENES, n)),
                 take(REASONS, choice(rng, REASONS, n)), ".")
        sentences.append(pc.if_else(pc.greater(length, k), s, ""))
    passage = sentences[0]
    for s in sentences[1:]:
        passage = join(passage, pc.if_else(pc.equal(s, ""), "", " "), s)
    question = join("Read the text and say who it is about.\n\n", passage)
    return question, join("The text is about ", who, ". It begins like this: ", sentences[0], "\n\nThen ", who,
                          " did ", text_of(pc.subtract(length, 1)), " more things. The next one was: ", sentences[1])


SHORT_TASKS = [(capital, 15), (colour, 15), (sound, 10), (echo, 12), (upper, 8), (next_letter, 6), (next_number, 6),
               (reverse, 8), (count, 6), (compare, 6), (is_animal, 10)]
FOREIGN_SHARE = 1 / 20


def row_group(seed, number, first_row, n, long_share, seen):
    """Rows [first_row, first_row + n) as a table. `seen` is the texts so far; None: a card on each makes it unique."""
    rng = np.random.Generator(np.random.PCG64([seed, number]))
    tasks = [task for task, _ in SHORT_TASKS] + [foreign, story]
    weights = np.array([w for _, w in SHORT_TASKS], dtype=float)
    weights *= (1 - FOREIGN_SHARE - long_share) / weights.sum()
    kinds = rng.choice(len(tasks), size=n, p=np.append(weights, [FOREIGN_SHARE, long_share]))

    # All rows of a task at once, then back into the order of `kinds`.
    made = [task(rng, int((kinds == k).sum())) for k, task in enumerate(tasks)]
    order = pa.array(np.argsort(np.argsort(kinds, kind="stable")))
    question = pa.concat_arrays([q for q, _ in made]).take(order)
    response = pa.concat_arrays([r for _, r in made]).take(order)
    system = take(SYSTEM_PROMPTS, choice(rng, SYSTEM_PROMPTS, n, SYSTEM_SHARES))
    rows = np.arange(first_row, first_row + n)

    tagged = np.ones(n, dtype=bool)
    if seen is not None:
        for i, key in enumerate(zip(system.to_pylist(), question.to_pylist())):
            tagged[i] = key in seen
            seen.add(key)
    card = join("Card ", text_of(rows + 1), ". ", question)
    question = pc.if_else(pa.array(tagged), card, question)

    ids = join(take(ID_PREFIXES, choice(rng, ID_PREFIXES, n)), ".", text_of(rows * 7 + 1001))
    response = pc.if_else(pa.array(rng.random(n) < EMPTY_SHARE), "", response)
    table = pa.table([ids, system, question, response], schema=SCHEMA)

    source = np.arange(n)
    repeated = np.flatnonzero(rng.random(n) < DUPLICATE_SHARE)
    repeated = repeated[repeated > 0]
    source[repeated] = (rng.random(len(repeated)) * repeated).astype(int)
    return table.take(pa.array(source)), len(repeated)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--long", type=float, default=0.03, metavar="SHARE", help="share of long rows (default 0.03)")
    parser.add_argument("--row-group", type=int, help="rows in a row group (default: 400, from 20,000 rows on 10,000)")
    parser.add_argument("--compression", default="zstd", help="of the Parquet file: zstd, snappy, gzip, lz4, none")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "inputs" / "tiny" / "sample.parquet")
    parser.add_argument("--jsonl", action="store_true", help="write --out as JSON lines instead of Parquet")
    args = parser.parse_args()
    if args.rows < 1 or not 0 <= args.long <= 1 - FOREIGN_SHARE:
        parser.error("--rows must be at least 1 and --long between 0 and 0.95")

    size = args.row_group or (400 if args.rows < TRACKED_ROWS else 10000)
    seen, duplicates, empty = set(), 0, 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    writer = args.out.open("w", encoding="utf-8") if args.jsonl else pq.ParquetWriter(
        args.out, SCHEMA, compression=args.compression)
    with writer:
        for number, first in enumerate(range(0, args.rows, size)):
            table, repeated = row_group(args.seed, number, first, min(size, args.rows - first), args.long,
                                        seen if first < TRACKED_ROWS else None)
            duplicates += repeated
            empty += pc.sum(pc.equal(table["response"], "")).as_py()
            if args.jsonl:
                writer.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
            else:
                writer.write_table(table, row_group_size=size)
    print(f"{args.out}: {args.rows} rows, {empty} with an empty response, {duplicates} repeated, "
          f"{args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
