#!/usr/bin/env python3
"""Writes a made-up data set in OpenOrca's schema (id, system_prompt, question, response; all strings).

    python tools/make_sample.py                                        # inputs/tiny/sample.parquet, 2,400 rows
    python tools/make_sample.py --rows 3000000 --long 0.5 --out big.parquet
    python tools/make_sample.py --rows 3000000 --words /usr/share/doc --out big    # a folder, 5 GB of text

The tasks are ones that a model of 1-2 M parameters learns in a minute or two: facts of a small invented world, copying,
upper case, spelling backwards, counting on, comparing. Answers are short sentences of few patterns; no text is real.

Rows are made a row group at a time, from (seed, number of the row group) alone, so any number of rows fits in memory.
The same seed and options give the same rows, and with the same pyarrow the same bytes. What a reader has to cope with
is there in known shares: --long rows of up to about 200 tokens, 1 row in 20 with text outside ASCII, and 1 row in 200
each with an empty response or repeated exactly (id and all) from earlier in its row group. No other two rows have the
same text: where the tasks' own variety runs out, the question carries the number of a card.

--words is for measuring speed: rows of OpenOrca's size (1.8 KB on average) without sense, whose words come as often as they do
in the text files under that path (up to 150 MB of them are read; .gz too), some with a comma or a full stop, some with a
capital letter: a vocabulary as large, and as uneven, as that of real text. --out is then a folder of files of 100,000 rows.

Needs numpy and pyarrow.
"""
import argparse
import collections
import gzip
import json
import pathlib
import re

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


WORD = re.compile(r"[A-Za-z][a-z']{0,18}|[0-9]{1,4}|[^\W\d_]{2,20}")
WORDS_READ, WORDS_OF_A_FILE, FILE_ROWS = 150_000_000, 400_000, 100_000
ORCA_PROMPTS = [
    "", "You are a helpful assistant, who always provide explanation. Think like you are answering to a five year old.",
    "You are an AI assistant. You will be given a task. You must generate a detailed and long answer.",
    "You are an AI assistant that follows instruction extremely well. Help as much as you can.",
    "Explain how you used the definition to come up with the answer."]


class RealWords:
    """Words of the text files under a path, drawn as often as they are there."""

    def __init__(self, path, seed):
        rng = np.random.default_rng(seed)
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        rng.shuffle(files)
        counts, read = collections.Counter(), 0
        for file in files:
            try:
                raw = (gzip.open(file) if file.suffix == ".gz" else file.open("rb")).read(WORDS_OF_A_FILE)
            except OSError:
                continue
            text = raw.decode("utf-8", "ignore")
            counts.update(w for w in WORD.findall(text) if len(w) > 1 or w in "aI")
            read += len(raw)
            if read > WORDS_READ:
                break
        words = [w for w, _ in counts.most_common()]
        share = np.array([counts[w] for w in words], dtype=float) / counts.total()
        self.forms = pa.array([form for w in words for form in (w, w + ",", w.capitalize(), w + ".")])
        # Drawing an entry of a long table is drawing by frequency.
        self.table = np.repeat(np.arange(len(words), dtype=np.int32), np.maximum((share * (1 << 24)).astype(np.int64), 1))
        self.form_table = np.repeat(np.arange(4, dtype=np.int32), [84, 6, 5, 5])
        print(f"{len(words)} different words in {read} bytes under {path}")

    def texts(self, rng, n, mean):
        lengths = np.maximum(rng.gamma(1.3, mean / 1.3, n).astype(np.int64), 3)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        picked = self.table[rng.integers(0, len(self.table), offsets[-1])] * 4
        picked += self.form_table[rng.integers(0, len(self.form_table), offsets[-1])]
        return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), self.forms.take(pa.array(picked))), pa.scalar(" "))


def write_orca_size(args):
    words = RealWords(args.words, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    size = args.row_group or 10000
    for first in range(0, args.rows, FILE_ROWS):
        path = args.out / f"{first // FILE_ROWS:05}.parquet"
        with pq.ParquetWriter(path, SCHEMA, compression=args.compression) as writer:
            for group in range(first, min(first + FILE_ROWS, args.rows), size):
                n = min(size, args.rows - group)
                rng = np.random.Generator(np.random.PCG64([args.seed, group]))
                ids = join(take(ID_PREFIXES, choice(rng, ID_PREFIXES, n)), ".", text_of(np.arange(group, group + n) + 1001))
                system = take(ORCA_PROMPTS, choice(rng, ORCA_PROMPTS, n))
                table = pa.table([ids, system, words.texts(rng, n, 155), words.texts(rng, n, 140)], schema=SCHEMA)
                source = np.arange(n)
                repeated = np.flatnonzero(rng.random(n) < DUPLICATE_SHARE)
                source[repeated] = (rng.random(len(repeated)) * repeated).astype(int)
                writer.write_table(table.take(pa.array(source)), row_group_size=size)
    print(f"{args.out}: {args.rows} rows")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--long", type=float, default=0.03, metavar="SHARE", help="share of long rows (default 0.03)")
    parser.add_argument("--row-group", type=int, help="rows in a row group (default: 400, from 20,000 rows on 10,000)")
    parser.add_argument("--compression", default="zstd", help="of the Parquet file: zstd, snappy, gzip, lz4, none")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "inputs" / "tiny" / "sample.parquet")
    parser.add_argument("--jsonl", action="store_true", help="write --out as JSON lines instead of Parquet")
    parser.add_argument("--words", type=pathlib.Path, metavar="PATH", help="rows of OpenOrca's size with the words of these texts")
    args = parser.parse_args()
    if args.words:
        return write_orca_size(args)
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
