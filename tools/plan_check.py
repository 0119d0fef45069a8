#!/usr/bin/env python3
"""On a GPU: what `llmft plan` says beside what `llmft train` then takes, for Llama 3.2-1B's shape at three sizes,
LoRA and full fine-tuning; and that the GPU's memory does not grow after the first step.

  plan_check.py LLMFT MODEL [--work FOLDER] [--more 'OPTIONS OF BOTH']

MODEL without a config.json is made, of random weights. Needs nvidia-smi.
A run's own account (memory.csv) and the whole GPU's (nvidia-smi, less what others held before) are compared with the
plan; more than 5 % apart, or memory taken after step 1, ends with exit code 1.
"""
import argparse
import csv
import io
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import threading
import time

from random_model import make_model, make_tokenizer, write_samples

MIB = 1 << 20
TOLERANCE = 0.05
STEPS = 16
# what drivers and libraries may move without an allocation of ours: nvidia-smi counts in pages of 2 MiB
GROWTH = 4 * MIB
SIZES = [("8192 x 1", ["--pack-tokens", "8192", "--batch-packs", "1"]),
         ("4096 x 4", ["--pack-tokens", "4096", "--batch-packs", "4"]),
         ("16384 x 1", ["--pack-tokens", "16384", "--batch-packs", "1"])]
MODES = [("LoRA r=16", ["--adapter-rank", "16"]), ("full", ["--adapter-rank", "0", "--lr", "1e-5"])]


def make_data(llmft, model, work, folder):
    """Samples of 1024 tokens, by the model's tokenizer if it has one."""
    tokenizer = model
    if not any((model / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        tokenizer = work / "plan-tokenizer"
        tokenizer.mkdir(exist_ok=True)
        make_tokenizer(tokenizer, json.loads((model / "config.json").read_text())["vocab_size"])
    write_samples(work / "plan.jsonl", 320, 1024)
    subprocess.run([llmft, "preprocess", "--input", work / "plan.jsonl", "--tokenizer", tokenizer, "--output", folder,
                    "--force"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class GpuMemory:
    """Bytes in use on the GPU, read ten times a second in a thread."""

    def __init__(self):
        self.process = subprocess.Popen(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0",
                                         "-lms", "100"], stdout=subprocess.PIPE, text=True)
        self.readings = []  # (time, bytes)
        threading.Thread(target=self.read, daemon=True).start()
        deadline = time.monotonic() + 10
        while not self.readings and time.monotonic() < deadline:
            time.sleep(0.02)

    def read(self):
        for line in self.process.stdout:
            self.readings.append((time.monotonic(), int(line) * MIB))

    def most(self, begin, end):
        return max((b for t, b in self.readings if begin <= t <= end), default=0)

    def stop(self):
        self.process.terminate()


def plan(llmft, options):
    out = subprocess.run([llmft, "plan", "--format", "csv", *options], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {row["part"]: int(row["bytes"]) for row in csv.DictReader(io.StringIO(out))}


def train(llmft, options, data, folder, gpu):
    """(bytes by the run's account, most bytes on the GPU, growth after step 1) or a line that says what went wrong."""
    shutil.rmtree(folder, ignore_errors=True)  # the steps of another run would look like this one's
    before, begin = gpu.readings[-1][1], time.monotonic()
    process = subprocess.Popen([llmft, "train", *options, "--data", data, "--output", folder, "--overwrite", "--results", "",
                                "--steps", str(STEPS), "--measure-only"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    first, rows = None, folder / "steps.csv"
    while process.poll() is None:
        if first is None and rows.exists() and rows.read_text().count("\n") >= 2:
            first = time.monotonic()
        time.sleep(0.01)
    end = time.monotonic()
    errors = [line for line in process.stderr.read().splitlines() if "error:" in line]
    if process.returncode != 0:
        return errors[0] if errors else f"exit code {process.returncode}"
    held = {row["part"]: int(row["bytes"]) for row in csv.DictReader((folder / "memory.csv").open())}
    # the last readings may see the process go
    later = [b for t, b in gpu.readings if first is not None and first <= t <= end]
    growth = max(later) - later[0] if len(later) > 1 else None
    return held["peak"], gpu.most(begin, end) - before, growth


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llmft", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("gpu-check"))
    parser.add_argument("--more", default="")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    llmft = str(args.llmft.resolve())
    if not (args.model / "config.json").exists():
        make_model(args.model, tiny=False)
    data = args.work / "plan-data"
    if not (data / "manifest.json").exists():
        make_data(llmft, args.model, args.work, data)
    gpu = GpuMemory()
    failed = 0
    print(f"{'mode, tokens a step':24} {'plan GiB':>9} {'held GiB':>9} {'':>7} {'plan, all':>9} {'on GPU':>9} {'':>7}"
          f" {'after step 1':>13}  result")
    for mode, mode_options in MODES:
        for size, size_options in SIZES:
            options = ["--model", str(args.model), "--device", "cuda", *mode_options, *size_options, *shlex.split(args.more)]
            planned = plan(llmft, options)
            result = train(llmft, options, data, args.work / "plan-run", gpu)
            if isinstance(result, str):
                print(f"{mode + ', ' + size:24} FAILED: {result}", flush=True)
                failed += 1
                continue
            held, on_gpu, growth = result
            whole = planned["peak"] + planned["outside"]
            own, all_of_it = planned["peak"] / held - 1, whole / max(on_gpu, 1) - 1
            good = abs(own) <= TOLERANCE and abs(all_of_it) <= TOLERANCE and growth is not None and growth <= GROWTH
            failed += not good
            grown = "not seen" if growth is None else f"{growth / MIB:+.0f} MiB"
            print(f"{mode + ', ' + size:24} {planned['peak'] / 2**30:9.3f} {held / 2**30:9.3f} {own:+7.2%}"
                  f" {whole / 2**30:9.3f} {on_gpu / 2**30:9.3f} {min(all_of_it, 9.99):+7.2%} {grown:>13}  {'ok' if good else 'FAILED'}",
                  flush=True)
    gpu.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
