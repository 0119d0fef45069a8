#!/usr/bin/env python3
"""How fast llmft trains on one GPU: the settings of docs/performance.md one after another, and what a change gives, in turns with
and without it.

  speed_check.py bundle gpu-speed                                      every setting once
  speed_check.py bundle gpu-speed --only bf16,tf32 --rounds 3 --variant LLMFT_SWIGLU=pair --variant 'train.seed=2'
  speed_check.py build/release rehearsal --device cpu --tiny           the same on a CPU, small

PROGRAMS is a build folder or a bundle (docs/bundle.md). A variant is one or several NAME=VALUE, spaces between them: capital
letters are the environment's, others options of llmft train. Random weights of Llama 3.2-1B's shape and made-up samples, 45 % of
the tokens supervised, are made in WORK where they are missing. WORK/results/benchmarks.csv and WORK/runs are what
postprocess/collect.py takes; rows of variants go to variants.csv beside it. Exit code 1 where a run failed.
"""
import argparse
import csv
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

from random_model import make_model, write_samples

ONE_PACK = ["--batch-packs", "1", "--pack-tokens"]
FULL = ["--adapter-rank", "0", "--train.lr=1e-5"]
# name: data, tokens a step, options; the table of docs/performance.md
SETTINGS = {
    "bf16": ("letters-1024", 8192, ["--precision", "bf16"]),
    "bf16-512": ("letters-512", 10240, ["--precision", "bf16", "--adapter-rank", "64", "--adapter-alpha", "128"]),
    "bf16-openorca": ("lengths-like-openorca", 8192, ["--precision", "bf16"]),
    "bf16-deterministic": ("letters-1024", 8192, ["--precision", "bf16", "--deterministic"]),
    "fp16": ("letters-1024", 8192, ["--precision", "fp16"]),
    "tf32": ("letters-1024", 8192, ["--precision", "tf32"]),
    "fp32": ("letters-1024", 8192, ["--precision", "fp32"]),
    "full": ("letters-1024", 8192, ["--precision", "bf16", *FULL]),
    "full-16k": ("letters-1024", 16384, ["--precision", "bf16", *FULL]),
}
LENGTHS = {"letters-1024": 1024, "letters-512": 512, "lengths-like-openorca": None}


class SpeedCheck:
    def __init__(self, args):
        self.args = args
        self.work = args.work.resolve()
        programs = args.programs.resolve()
        self.llmft = programs / "llmft"
        if not self.llmft.is_file():
            sys.exit(f"error: no program {self.llmft}; name a build folder or a bundle")
        self.model = (args.model or self.work / "model").resolve()
        for folder in ("runs", "results", "cache"):
            (self.work / folder).mkdir(parents=True, exist_ok=True)
        self.env = dict(os.environ, XDG_CACHE_HOME=str(self.work / "cache"), NO_COLOR="1", OMPI_ALLOW_RUN_AS_ROOT="1",
                        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        self.speeds = {}  # (setting, variant): of each round
        self.failed = False

    def run(self, command, log, env=None):
        """Whether it ended well; says the last line of what it said where it did not."""
        with open(log, "w") as out:
            try:
                status = subprocess.run([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                        env=self.env | (env or {}), timeout=self.args.limit, check=False).returncode
            except subprocess.TimeoutExpired:
                status = f"none within {self.args.limit:.0f} s"
        if status != 0:
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["it said nothing"]
            errors = [line for line in said if "error" in line.lower()]
            print(f"{log.stem}: FAILED, exit status {status}: {(errors or said)[-1][:300]}", flush=True)
            self.failed = True
        return status == 0

    def data(self, name):
        folder = self.work / name
        if not (folder / "manifest.json").exists():
            length = LENGTHS[name]
            if length is not None and self.args.tiny:
                length //= 8
            samples = self.work / f"{name}.jsonl"
            write_samples(samples, 300 if self.args.tiny else 4000, length)
            longest = ["--max-length", length, "--min-length", length] if length else ["--max-length", 512 if self.args.tiny else 2048]
            if not self.run([self.llmft, "preprocess", "--input", samples, "--tokenizer", self.model, "--output", folder, "--force",
                             *longest], self.work / f"{name}.log"):
                sys.exit(1)
        return folder

    def train(self, setting, variant, turn):
        data, tokens, options = SETTINGS[setting]
        words = variant.split()
        env = dict(w.split("=", 1) for w in words if w[0].isupper())
        options = options + [f"--{w}" for w in words if not w[0].isupper()]
        name = "-".join([setting, *(w.replace("=", "_").replace("/", "_").lower() for w in words), str(turn)])
        output = self.work / "runs" / name
        shutil.rmtree(output, ignore_errors=True)
        table = self.work / "results" / ("variants.csv" if words else "benchmarks.csv")
        done = self.run([self.llmft, "train", "--model", self.model, "--data", self.data(data), "--output", output, "--results", table,
                         "--device", self.args.device, *ONE_PACK, tokens // 16 if self.args.tiny else tokens, "--steps", self.args.steps,
                         "--checkpoint-every", "0", "--measure-only", "--report.timing_warmup", min(3, self.args.steps - 1), *options],
                        self.work / "runs" / f"{name}.log", env)
        if not done:
            return
        steps = [float(row["tokens_per_s"]) for row in csv.DictReader(open(output / "steps.csv"))]
        peak = next(int(row["bytes"]) for row in csv.DictReader(open(output / "memory.csv")) if row["part"] == "peak")
        early = statistics.median(steps[3:11] or steps)
        self.speeds.setdefault((setting, variant), []).append(early)
        print(f"{name:60s} steps 4-11 {early:10,.0f}  last 10 {statistics.median(steps[-10:]):10,.0f} tokens/s  peak {peak / 1e9:6.2f} GB",
              flush=True)

    def all(self):
        a = self.args
        if not (self.model / "config.json").exists():
            make_model(self.model, a.tiny)
        variants = ["", *a.variant]
        for setting in a.only:
            for turn in range(1, a.rounds + 1):
                # the first in a row finds the card cooler: each goes first in its turn
                for i in range(len(variants)):
                    self.train(setting, variants[(i + turn - 1) % len(variants)], turn)
        print("\nmedians of the rounds, tokens/s")
        for setting in a.only:
            base = self.speeds.get((setting, ""))
            for variant in variants:
                if speeds := self.speeds.get((setting, variant)):
                    speed = statistics.median(speeds)
                    change = f"  {100 * (speed / statistics.median(base) - 1):+.1f} %" if variant and base else ""
                    print(f"{setting:20s} {variant or 'as it is':44s} {speed:10,.0f}{change}")
        return 1 if self.failed else 0


def variant_of(text):
    if not text.strip() or any("=" not in word or word.startswith(("-", "=")) for word in text.split()):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE (several: spaces between them)")
    return text


def settings_of(text):
    names = text.split(",")
    if unknown := [name for name in names if name not in SETTINGS]:
        raise argparse.ArgumentTypeError(f"no setting '{unknown[0]}'; there are {', '.join(SETTINGS)}")
    return names


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("programs", type=pathlib.Path, help="bundle or build folder")
    p.add_argument("work", type=pathlib.Path, help="folder for all that is made")
    p.add_argument("--only", type=settings_of, default=list(SETTINGS), metavar="A,B", help=f"of {', '.join(SETTINGS)}")
    p.add_argument("--variant", type=variant_of, action="append", default=[], metavar="NAME=VALUE", help="compared with none; several times")
    p.add_argument("--rounds", type=int, default=1, help="of every setting with every variant (1)")
    p.add_argument("--steps", type=int, default=30, help="of a run (30)")
    p.add_argument("--limit", type=float, default=240, help="seconds that one run may take (240)")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--model", type=pathlib.Path, help="a model folder (random weights)")
    p.add_argument("--tiny", action="store_true", help="small shapes, to rehearse on a CPU")
    args = p.parse_args()
    if args.rounds < 1 or args.steps < 2:
        p.error("--rounds is at least 1, --steps at least 2")
    return SpeedCheck(args).all()


if __name__ == "__main__":
    sys.exit(main())
