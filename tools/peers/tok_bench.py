#!/usr/bin/env python3
"""llmft's tokenizer beside gigatoken, fastokens, tiktoken and Hugging Face tokenizers: the same text, one core, ids compared.

  pip install gigatoken fastokens tiktoken tokenizers numpy awkward     (a peer that is missing is left out)
  cmake -B build/b -DLLMFT_BENCH=ON && cmake --build build/b --target bench_tokenizer
  tools/peers/tok_bench.py --prefix "taskset -c 1" --model tokenizer.model --bench build/b/bench/bench_tokenizer en.jsonl mix.jsonl

--model is Meta's rank file for Llama 3. A corpus is JSON lines with system_prompt, question and response, or UTF-8 text.
A process does --rounds rounds: a new tokenizer, its first pass over the text, --passes repeated ones; and one round before
them, not counted, so that no first pass pays for a process that is new (memory from the system, threads, imports). Peers and llmft
take turns, --runs times. MB/s = 1e6 bytes of text per second of CPU time of the whole process; a cell is the median of all
its passes. Forms: `doc` one call a document, `batch` the peer's own call for a list of documents, `buffer` the whole text as one
document (ids not compared: documents' borders vanish). gigatoken is given bytes, the others str. llmft's rows named after
instructions have these forced (LLMFT_SIMD). The end is llmft against the best form of each peer.
"""
import argparse
import base64
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
import numpy as np

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SLOW_MB = 5  # of text is enough for peers below 10 MB/s


def read_ranks(model):
    with open(model, "rb") as f:
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in f if line.strip())}


def byte_characters():
    """GPT-2's printable character of each byte, which tokenizer.json writes its vocabulary in."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def write_tokenizer_json(model, path):
    ranks = read_ranks(model)
    names = byte_characters()
    name = lambda token: "".join(names[b] for b in token)
    merges = []
    for token, rank in ranks.items():
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += [(rank, name(a), name(b)) for a, b in sorted(cuts, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))]
    merges.sort(key=lambda merge: merge[0])
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    with open(path, "w", encoding="utf-8") as f:
        json.dump({
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                      "vocab": {name(token): rank for token, rank in ranks.items()},
                      "merges": [[a, b] for _, a, b in merges]}}, f, ensure_ascii=False)


def read_corpus(path):
    with open(path, encoding="utf-8", newline="") as f:
        if not path.endswith(".jsonl"):
            return [f.read()]
        rows = (json.loads(line) for line in f)
        return ["\n".join(row[part] for part in ("system_prompt", "question", "response")) for row in rows]


# Each returns {form: (function of the documents, function of its result that gives one list of ids a document)}.
def gigatoken(model, tokenizer_json):
    import gigatoken
    with open(tokenizer_json, "rb") as f:  # its loader of rank files refuses Llama 3's
        t = gigatoken.Tokenizer.from_json(f.read())
    return {"doc": (lambda docs: [t.encode(d) for d in docs], lambda r: [np.asarray(x) for x in r]),
            "batch": (lambda docs: t.encode_batch(docs, parallel=False), lambda r: [np.asarray(x) for x in r])}


def fastokens(model, tokenizer_json):
    import fastokens
    t = fastokens.Tokenizer.from_file(tokenizer_json)
    return {"doc": (lambda docs: [t.encode(d) for d in docs], lambda r: [x.ids for x in r]),
            "batch": (lambda docs: t.encode_batch_flat(docs), lambda r: [np.frombuffer(r[0], np.uint32)])}


def tiktoken(model, tokenizer_json):
    import tiktoken
    t = tiktoken.Encoding("llama3", pat_str=PATTERN, mergeable_ranks=read_ranks(model), special_tokens={})
    return {"doc": (lambda docs: [t.encode_ordinary(d) for d in docs], list)}


def tokenizers(model, tokenizer_json):
    import tokenizers
    t = tokenizers.Tokenizer.from_file(tokenizer_json)
    return {"doc": (lambda docs: [t.encode(d) for d in docs], lambda r: [x.ids for x in r]),
            "batch": (lambda docs: t.encode_batch_fast(docs), lambda r: [x.ids for x in r])}


PEERS = {f.__name__: f for f in (gigatoken, fastokens, tiktoken, tokenizers)}
FORMS = {"llmft": ("doc", "batch", "buffer"), "gigatoken": ("doc", "batch", "buffer"), "fastokens": ("doc", "batch", "buffer"),
         "tiktoken": ("doc",), "tokenizers": ("doc", "batch")}
BYTES = {"gigatoken"}  # takes them as they are, which saves it a look at each character
SLOW = {"tokenizers"}  # measured on a part of the text
FEW = {"tiktoken", "tokenizers"}  # too slow for many rounds
TIERS = ("portable", "sse2", "avx2", "avx512")


def run_peer(args):
    """In a process of its own: prints {"first": [MB/s], "repeated": [MB/s]} and leaves the ids in a file."""
    docs = read_corpus(args.corpora[0])
    peer, form = args.only.split(":")
    if peer in SLOW:
        total = np.cumsum([len(d.encode()) for d in docs])
        docs = docs[:int(np.searchsorted(total, SLOW_MB * 1e6)) + 1]
    size = sum(len(d.encode()) for d in docs)
    if form == "buffer":
        docs = ["".join(docs)]
    if peer in BYTES:
        docs = [d.encode() for d in docs]
    rates = {"first": [], "repeated": []}
    for round_ in range(1 + args.rounds):
        forms = PEERS[peer](args.model, args.json)
        run, ids_of = forms.get(form) or forms["doc"]
        for i in range(1 + args.passes):
            start = time.process_time()
            result = run(docs)
            rate = size / 1e6 / (time.process_time() - start)
            if round_ > 0:
                rates["repeated" if i else "first"].append(rate)
            elif form != "buffer" and i == 0:
                np.concatenate([np.asarray(x, np.uint32) for x in ids_of(result)]).tofile(args.ids)
            del result
            if round_ == 0 and peer in FEW:
                break
    print(json.dumps(rates))


def available():
    for peer in PEERS:
        try:
            __import__(peer)
            yield peer
        except ImportError:
            print(f"{peer}: not installed, left out", file=sys.stderr)


def has_tier(tier):
    with open("/proc/cpuinfo") as f:
        flags = next((line.split() for line in f if line.startswith("flags")), [])
    return {"portable": True, "sse2": "sse2" in flags, "avx2": "avx2" in flags, "avx512": "avx512_vbmi2" in flags}[tier]


def jobs_of(args, peers, corpus, work, tokenizer_json, ids):
    """(name, form, command, environment) of each row."""
    docs = [d.encode() for d in read_corpus(corpus)]
    text, offsets = (os.path.join(work, n) for n in ("text", "offsets"))
    with open(text, "wb") as f:
        f.write(b"".join(docs))
    np.cumsum([0] + [len(d) for d in docs]).astype(np.uint64).tofile(offsets)
    numbers = [str(args.rounds), str(args.passes)]
    jobs = []
    for peer in sorted(peers, key=lambda p: p != "tiktoken"):  # its ids are the reference
        few = ["1", "1"] if peer in FEW else numbers
        for form in FORMS[peer]:
            command = [sys.executable, os.path.abspath(__file__), "--model", args.model, "--json", tokenizer_json, "--ids", ids]
            jobs.append((peer, form, [*command, "--only", f"{peer}:{form}", "--rounds", few[0], "--passes", few[1], corpus], {}))
    if args.bench:
        ours = lambda form: [args.bench, "--text", args.model, text, offsets, form, *numbers, ids]
        jobs += [("llmft", form, ours(form), {}) for form in FORMS["llmft"]]
        jobs += [(f"llmft, {tier}", "doc", ours("doc"), {"LLMFT_SIMD": tier}) for tier in TIERS if has_tier(tier)]
    return jobs


def measure(args, jobs, ids):
    """{(name, form): {"first": [MB/s], "repeated": [MB/s], "ids": verdict}}; the second value: llmft's wrong ones."""
    results, reference, wrong = {}, None, 0
    for turn in range(args.runs):
        for name, form, command, environment in jobs:  # in turn: a busy minute of the machine meets all of them
            if name in FEW and turn > 0:
                continue
            done = subprocess.run(shlex.split(args.prefix) + command, env={**os.environ, **environment},
                                  capture_output=True, text=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{name} {form}: {done.stderr[-500:]}")
            found = json.loads(done.stdout)
            entry = results.setdefault((name, form), {"first": [], "repeated": [], "ids": ""})
            for key in ("first", "repeated"):
                entry[key] += found[key]
            if form == "buffer" or turn > 0:
                continue
            got = np.fromfile(ids, np.uint32)
            if name == "tiktoken":
                reference, entry["ids"] = got, "reference"
            elif reference is None:
                entry["ids"] = "no tiktoken to compare with"
            else:
                same = np.array_equal(got, reference[:len(got)] if name in SLOW else reference)
                wrong += name.startswith("llmft") and not same
                entry["ids"] = "same" if same else "DIFFERENT"
    return results, wrong


def best(results, peer, key):
    return max(statistics.median(entry[key]) for (name, _), entry in results.items() if name == peer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bench", help="the program bench_tokenizer")
    parser.add_argument("--prefix", default="", help="put before each measured command")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--json", help=argparse.SUPPRESS)
    parser.add_argument("--ids", help=argparse.SUPPRESS)
    parser.add_argument("corpora", nargs="+")
    args = parser.parse_args()
    if args.only:
        return run_peer(args)

    wrong, peers, ratios = 0, list(available()), []
    with tempfile.TemporaryDirectory() as work:
        tokenizer_json, ids = os.path.join(work, "tokenizer.json"), os.path.join(work, "ids")
        write_tokenizer_json(args.model, tokenizer_json)
        print("| tokenizer | form | text | first pass | repeated | ids |\n|---|---|---|---|---|---|")
        for corpus in args.corpora:
            results, bad = measure(args, jobs_of(args, peers, corpus, work, tokenizer_json, ids), ids)
            wrong += bad
            text = os.path.splitext(os.path.basename(corpus))[0]
            for (name, form), entry in results.items():
                first, repeated = (statistics.median(entry[key]) for key in ("first", "repeated"))
                print(f"| {name} | {form} | {text} | {first:.1f} | {repeated:.1f} | {entry['ids']} |", flush=True)
            for peer in peers if args.bench else []:
                gains = [best(results, "llmft", key) / best(results, peer, key) for key in ("first", "repeated")]
                ratios.append(f"| {peer} | {text} | {gains[0]:.2f} x | {gains[1]:.2f} x |")
    if ratios:
        print("\n| llmft against the best form of | text | first pass | repeated |\n|---|---|---|---|", *ratios, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
