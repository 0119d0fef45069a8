#!/usr/bin/env python3
"""llmft's tokenizer beside gigatoken, fastokens, tiktoken and Hugging Face tokenizers: the same text, one core, ids compared.

  pip install gigatoken fastokens tiktoken tokenizers numpy awkward     (a peer that is missing is left out)
  cmake --build build/release --target bench_tokenizer
  taskset -c 1 tools/peers/tok_bench.py --model tokenizer.model --bench build/release/bench/bench_tokenizer en.jsonl mix.jsonl

--model is Meta's rank file for Llama 3. A corpus is JSON lines with system_prompt, question and response, or UTF-8 text.
A run is a fresh process: load, a first pass over the text, repeated passes. MB/s = 1e6 bytes of text per second of CPU time
of the whole process; a cell is the median of --runs runs. Forms: `doc` one call a document, `batch` the peer's own
call for a list of documents, `buffer` the whole text as one document; a peer's best form is what counts.
"""
import argparse
import base64
import json
import os
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
SLOW = {"tokenizers"}


def run_peer(args):
    """In a process of its own: prints {"first": MB/s, "repeated": [MB/s]} and leaves the ids in a file."""
    docs = read_corpus(args.corpora[0])
    peer, form = args.only.split(":")
    if peer in SLOW:
        total = np.cumsum([len(d.encode()) for d in docs])
        docs = docs[:int(np.searchsorted(total, SLOW_MB * 1e6)) + 1]
    size = sum(len(d.encode()) for d in docs)
    if form == "buffer":
        docs = ["".join(docs)]
    forms = PEERS[peer](args.model, args.json)
    run, ids_of = forms.get(form) or forms["doc"]
    rates = []
    for _ in range(1 + (1 if peer in SLOW else args.passes)):
        start = time.process_time()
        result = run(docs)
        rates.append(size / 1e6 / (time.process_time() - start))
    if form != "buffer":
        np.concatenate([np.asarray(x, np.uint32) for x in ids_of(result)]).tofile(args.ids)
    print(json.dumps({"first": rates[0], "repeated": rates[1:]}))


def available():
    for peer in PEERS:
        try:
            __import__(peer)
            yield peer
        except ImportError:
            print(f"{peer}: not installed, left out", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--bench", help="the program bench_tokenizer")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--json", help=argparse.SUPPRESS)
    parser.add_argument("--ids", help=argparse.SUPPRESS)
    parser.add_argument("corpora", nargs="+")
    args = parser.parse_args()
    if args.only:
        return run_peer(args)

    wrong = 0
    peers = list(available())
    with tempfile.TemporaryDirectory() as work:
        tokenizer_json = os.path.join(work, "tokenizer.json")
        ids = os.path.join(work, "ids")
        write_tokenizer_json(args.model, tokenizer_json)
        print("| tokenizer | form | text | first pass | repeated | ids |\n|---|---|---|---|---|---|")
        for corpus in args.corpora:
            docs = [d.encode() for d in read_corpus(corpus)]
            text, offsets, whole = (os.path.join(work, n) for n in ("text", "offsets", "whole"))
            with open(text, "wb") as f:
                f.write(b"".join(docs))
            ends = np.cumsum([0] + [len(d) for d in docs]).astype(np.uint64)
            ends.tofile(offsets)
            ends[[0, -1]].tofile(whole)
            jobs = [("llmft", "doc", [args.bench, "--text", args.model, text, offsets, str(args.passes), ids]),
                    ("llmft", "buffer", [args.bench, "--text", args.model, text, whole, str(args.passes)])]
            jobs = jobs if args.bench else []
            for peer in peers:
                for form in (("doc",) if peer == "tiktoken" else ("doc", "batch") if peer in SLOW else
                             ("doc", "batch", "buffer")):
                    jobs.append((peer, form, [sys.executable, os.path.abspath(__file__), "--model", args.model, "--json",
                                              tokenizer_json, "--ids", ids, "--only", f"{peer}:{form}", "--passes",
                                              str(args.passes), corpus]))
            jobs.sort(key=lambda job: job[0] != "tiktoken")  # its ids are the reference
            results = {}
            reference = None
            verdicts = {}
            for _ in range(args.runs):
                for peer, form, command in jobs:  # in turn: a busy minute of the machine meets all of them
                    if peer in SLOW and results.get((peer, form)):
                        continue
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode != 0:
                        sys.exit(f"{peer} {form}: {done.stderr[-500:]}")
                    results.setdefault((peer, form), []).append(json.loads(done.stdout))
                    if form == "buffer" or (peer, form) in verdicts:
                        continue
                    found = np.fromfile(ids, np.uint32)
                    if reference is None:
                        reference = found if peer == "tiktoken" else None
                        verdicts[peer, form] = "reference" if peer == "tiktoken" else "no tiktoken to compare with"
                    else:
                        same = np.array_equal(found, reference[:len(found)] if peer in SLOW else reference)
                        wrong += peer == "llmft" and not same
                        verdicts[peer, form] = "same" if same else "DIFFERENT"
            for (peer, form), runs in results.items():
                first = statistics.median(r["first"] for r in runs)
                repeated = statistics.median(x for r in runs for x in r["repeated"])
                name = os.path.splitext(os.path.basename(corpus))[0]
                print(f"| {peer} | {form} | {name} | {first:.1f} | {repeated:.1f} | {verdicts.get((peer, form), '')} |",
                      flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
