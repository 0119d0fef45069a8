#!/usr/bin/env python3
"""What llmft does on 2, 4 or 8 GPUs of one machine, in under 8 minutes: every strategy, LoRA and full, bf16 and fp32, weak and
strong scaling, what --deterministic costs and that its runs agree bit for bit, a checkpoint that goes from N ranks to one,
bandwidths, memory a rank, exposed communication; Hugging Face DDP and FSDP2 and Liger beside it at the same shape.

  tools/multi_gpu_check.sh --pack build/release bundle     on the machine that builds
  bundle/multi_gpu_check.sh gpu-runs                       on the one with GPUs: python3, and torch, transformers, peft for the peers
  tools/multi_gpu_check.py --programs build/release --device cpu --ranks 8 --tiny rehearsal      the same on a CPU, small

Random weights of the shape of Llama 3.2-1B, samples of 1024 tokens, 45 % of them supervised. What matters most comes first; what
does not fit into --budget is left out and said so. WORK/report/ has all to keep: summary.txt, benchmarks.csv (rows that
`make plots` reads; peers' rows have the command "peer"), variants.csv (the same columns: runs that are no cells of the study),
comm.txt, and the log of each run that failed.
"""
import argparse
import csv
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

from random_model import make_model, write_samples

HERE = pathlib.Path(__file__).resolve().parent
STARTED = time.monotonic()


def elapsed():
    return time.monotonic() - STARTED


# --- runs --------------------------------------------------------------------------------------------------------


class Check:
    def __init__(self, args):
        self.args = args
        self.work = args.work.resolve()
        self.report = self.work / "report"
        self.failed = []
        self.skipped = []
        self.rows = {}  # name of a run: what it measured
        programs = args.programs.resolve()
        find = lambda name: next((p for p in (programs / name, programs / "tests" / name, programs / "bench" / name)
                                  if p.is_file() and os.access(p, os.X_OK)), None)
        self.llmft, self.mpi_parallel, self.bench_comm = find("llmft"), find("mpi_parallel"), find("bench_comm")
        if self.llmft is None:
            sys.exit(f"error: no program {programs / 'llmft'}; give --programs BUILD_FOLDER, or run this in a bundle")
        self.mpirun = find("mpirun") or shutil.which("mpirun")
        self.peer = next((p for p in (HERE / "train_bench.py", HERE / "peers/train_bench.py") if p.exists()), None)
        self.env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", PRTE_ALLOW_RUN_AS_ROOT="1",
                        PRTE_ALLOW_RUN_AS_ROOT_CONFIRM="1", XDG_CACHE_HOME=str(self.work / "cache"), NO_COLOR="1")
        if args.device == "cpu":
            self.env |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_NUM_THREADS": "1",
                         "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
        for folder in (self.work / "runs", self.report, self.work / "cache"):
            folder.mkdir(parents=True, exist_ok=True)
        self.summary = open(self.report / "summary.txt", "w")

    def say(self, text):
        print(text, flush=True)
        print(text, file=self.summary, flush=True)

    def head(self, text):
        self.say(f"\n== {text} ({elapsed():.0f} s)")

    def fail(self, name, why):
        self.failed.append(name)
        self.say(f"{name}: FAILED: {why}")

    def run(self, command, log, seconds, env=None, cwd=None):
        """Its exit status; 124 when it took too long, with all that it started ended."""
        with open(log, "w") as out:
            process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       env=self.env | (env or {}), cwd=cwd or self.work, start_new_session=True)
            try:
                return process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                return 124

    def ranks(self, count, *command):
        if self.mpirun is None:
            sys.exit("error: no mpirun here or in PATH; use a bundle (tools/multi_gpu_check.sh --pack)")
        return [self.mpirun, "--bind-to", "none", "-n", count, *command]

    def wanted(self, name):
        """Chosen by --only, and there is time left."""
        if not re.search(self.args.only, name):
            return False
        if elapsed() > self.args.budget:
            self.skipped.append(name)
            return False
        return True

    def error_of(self, log):
        text = log.read_text(errors="replace") if log.exists() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        said = [line for line in lines if re.search(r"error|NCCL WARN|OutOfMemory", line, re.I)]
        shutil.copy(log, self.report / log.name)
        return (said or lines or ["it said nothing"])[0 if said else -1][:300]

    def train_command(self, output, ranks, packs, steps, table, options):
        a = self.args
        return self.ranks(ranks, self.llmft, "train", "--model", a.model, "--data", a.data, "--output", output, "--device", a.device,
                          "--results", table, "--pack-tokens", a.tokens, "--batch-packs", packs, "--steps", steps,
                          "--train.schedule", "constant", "--train.warmup_steps", 1, "--report.timing_warmup", max(1, steps // 3),
                          "--checkpoint-every", 0, "--watchdog", 60, *options)

    def train(self, name, ranks, packs, options, cell=True, steps=None, keep=False, env=None):
        """A run; its row goes into benchmarks.csv where it is a cell of the study, else into variants.csv."""
        if not self.wanted(name):
            return False
        steps = steps or self.args.steps
        output, log = self.work / "runs" / name, self.work / "runs" / f"{name}.log"
        shutil.rmtree(output, ignore_errors=True)
        table = self.report / ("benchmarks.csv" if cell else "variants.csv")
        measure = [] if keep else ["--measure-only"]
        status = self.run(self.train_command(output, ranks, packs, steps, table, [*options, *measure]), log, self.args.limit, env)
        if status != 0:
            self.fail(name, f"exit status {status}: {self.error_of(log)}")
            return False
        self.measure(name, output, steps)
        return True

    def measure(self, name, output, steps):
        rows = list(csv.DictReader(open(output / "steps.csv")))
        late = rows[max(1, steps // 3):] or rows
        memory = {}
        for r in csv.DictReader(open(output / "memory.csv")):
            memory.setdefault(int(r["rank"]), {})[r["part"]] = int(r["bytes"]) / 1e9
        exposed = [float(r["seconds"]) for r in csv.DictReader(open(output / "timing.csv")) if r["phase"] == "exposed_communication"]
        row = {"tok_s": statistics.median(float(r["tokens_per_s"]) for r in late),
               "ms": 1e3 * statistics.median(float(r["step_time_s"]) for r in late),
               "exposed_ms": [1e3 * e / len(rows) for e in exposed], "peak_gb": [m["peak"] for _, m in sorted(memory.items())],
               "values": [(r["step"], r["loss"], r["grad_norm"]) for r in rows]}
        self.rows[name] = row
        gb = ".5f" if self.args.tiny else ".2f"
        parts = ", ".join(f"{p} {memory[0].get(p, 0):{gb}}" for p in ("weights", "adapters", "gradients", "optimizer", "gathered"))
        spread = lambda values, f: f.format(min(values)) + (f"-{f.format(max(values))}" if len(values) > 1 else "") if values else "-"
        self.say(f"{name:36s} {row['tok_s']:10,.0f} tok/s {row['ms']:8.1f} ms  exposed {spread(row['exposed_ms'], '{:.2f}')} ms  "
                 f"peak {spread(row['peak_gb'], '{:' + gb + '}')} GB ({parts})")

    def share(self, many, one, ranks, goal=None):
        """How much of `ranks` times one GPU."""
        if many == one or many not in self.rows or one not in self.rows:
            return
        percent = 100 * self.rows[many]["tok_s"] / (ranks * self.rows[one]["tok_s"])
        verdict = "" if goal is None else f"  (goal {goal} %: {'met' if percent >= goal else 'SHORT'})"
        self.say(f"  {many}: {percent:.1f} % of {ranks} x {one}{verdict}")

    def less_memory(self, fsdp, ddp):
        if fsdp not in self.rows or ddp not in self.rows:
            return
        pairs = list(zip(self.rows[fsdp]["peak_gb"], self.rows[ddp]["peak_gb"]))
        if any(f >= d for f, d in pairs):
            self.fail(fsdp, "takes as much memory as ddp on some rank: " + ", ".join(f"{f:.3f} against {d:.3f} GB" for f, d in pairs))

    def same_bits(self, *names):
        names = [n for n in names if n in self.rows]
        for name in names[1:]:
            a, b = self.rows[names[0]]["values"], self.rows[name]["values"]
            differ = [x[0] for x, y in zip(a, b) if x != y]
            if differ or len(a) != len(b):
                self.fail(name, f"differs from {names[0]} from step {differ[:1]} on")
            else:
                self.say(f"  {name}: losses and gradient norms of {len(a)} steps as {names[0]}, every digit")

    # --- parts ---

    def prepare(self):
        a = self.args
        a.model, a.data = a.model or self.work / "model", a.data or self.work / "data"
        if not (a.model / "config.json").exists():
            self.head("random weights")
            make_model(a.model, a.tiny)
        if not (a.data / "manifest.json").exists():
            self.head("data")
            samples = self.work / "samples.jsonl"
            write_samples(samples, 400 if a.tiny else 4000, a.sample)
            log = self.work / "data.log"
            status = self.run([self.llmft, "preprocess", "--input", samples, "--tokenizer", a.model, "--output", a.data, "--max-length",
                               a.sample], log, 120)
            if status != 0:
                sys.exit(f"error: preprocess: {self.error_of(log)}")

    def machine(self):
        n = self.args.ranks
        self.head(f"{n} ranks, {self.args.device}")
        log = self.report / "info.txt"
        self.run(self.ranks(n, self.llmft, "info"), log, 60)
        for line in log.read_text(errors="replace").splitlines():
            if re.match(r"llmft|rank |  NCCL", line):
                self.say(line)
        for name, program, seconds in (("collectives", self.mpi_parallel, 60), ("bandwidth", self.bench_comm, 90)):
            if program is None or not self.wanted(name):
                continue
            self.head(name)
            log = self.report / ("comm.txt" if name == "bandwidth" else "collectives.txt")
            options = ["--device", self.args.device, "--seconds", "0.01" if self.args.tiny else "0.1"] if name == "bandwidth" else []
            options += ["--model", self.args.model] if name == "bandwidth" and self.args.tiny else []
            if status := self.run(self.ranks(n, program, *options), log, seconds):
                self.fail(name, f"exit status {status}: {self.error_of(log)}")
            lines = log.read_text(errors="replace").splitlines()
            self.say("\n".join(lines if name == "bandwidth" else lines[-2:]))

    def strategies(self):
        n, full = self.args.ranks, ["--adapter-rank", 0, "--lr", "1e-5"]
        self.head(f"bf16, {self.args.tokens} tokens a rank and step")
        for kind, options in (("lora", []), ("full", full)):
            one = f"{kind}-bf16-none-1"
            self.train(one, 1, 1, ["--strategy", "none", *options])
            for strategy, goal in (("ddp", 99 if kind == "lora" else None), ("fsdp", 97 if kind == "lora" else 95)):
                self.train(f"{kind}-bf16-{strategy}-{n}", n, n, ["--strategy", strategy, *options])
                self.share(f"{kind}-bf16-{strategy}-{n}", one, n, goal)
            self.less_memory(f"{kind}-bf16-fsdp-{n}", f"{kind}-bf16-ddp-{n}")
        # two copies of N/2 ranks each; of two ranks one copy
        group = ["--hsdp-group", max(2, n // 2)]
        self.train(f"lora-bf16-hsdp-{n}", n, n, ["--strategy", "hsdp", *group])
        self.share(f"lora-bf16-hsdp-{n}", "lora-bf16-none-1", n)
        if n > 2:
            self.train(f"full-bf16-hsdp-{n}", n, n, ["--strategy", "hsdp", *group, *full])
            self.share(f"full-bf16-hsdp-{n}", "full-bf16-none-1", n)

    def weak_and_strong(self):
        n = self.args.ranks
        counts = [c for c in (2, 4) if c < n]
        if counts:
            self.head("weak scaling: one pack a rank")
            for count in counts:
                for strategy in ("ddp", "fsdp"):
                    self.train(f"lora-bf16-{strategy}-{count}", count, count, ["--strategy", strategy])
                    self.share(f"lora-bf16-{strategy}-{count}", "lora-bf16-none-1", count, {"ddp": 99, "fsdp": 97}[strategy])
        self.head(f"strong scaling: {n} packs a step")
        name = "strong-lora-bf16-{}-{}".format
        self.train(name("none", 1), 1, n, ["--strategy", "none"], steps=max(6, self.args.steps // 2))
        for count in [*counts, n]:  # at n ranks the same as the weak cell
            weak = f"lora-bf16-ddp-{count}"
            if count != n:
                self.train(name("ddp", count), count, n, ["--strategy", "ddp"])
            elif weak in self.rows:
                self.rows[name("ddp", count)] = self.rows[weak]
            self.share(name("ddp", count), name("none", 1), count)

    def fp32(self):
        n, steps = self.args.ranks, max(6, self.args.steps // 2)
        self.head("LoRA, fp32")
        for strategy, count in (("none", 1), ("ddp", n), ("fsdp", n)):
            self.train(f"lora-fp32-{strategy}-{count}", count, count, ["--strategy", strategy, "--precision", "fp32"], steps=steps)
            self.share(f"lora-fp32-{strategy}-{count}", "lora-fp32-none-1", count)

    def deterministic(self):
        n, steps = self.args.ranks, max(6, self.args.steps // 2)
        self.head(f"--deterministic: its cost, and the same bits of {n} packs a step on 1 and {n} ranks")
        for kind, options in (("lora", []), ("full", ["--adapter-rank", 0, "--lr", "1e-5"])):
            name = f"tree-{kind}-{{}}-{{}}".format
            for strategy, count in (("ddp", n), ("fsdp", n), ("none", 1), ("hsdp", n)):
                group = ["--hsdp-group", max(2, n // 2)] if strategy == "hsdp" else []
                self.train(name(strategy, count), count, n, ["--strategy", strategy, *group, "--deterministic", *options], cell=False,
                           steps=steps)
                fast = f"{kind}-bf16-{strategy}-{count}"
                if count == n and fast in self.rows and name(strategy, n) in self.rows:
                    cost = 100 * (1 - self.rows[name(strategy, n)]["tok_s"] / self.rows[fast]["tok_s"])
                    self.say(f"  costs {cost:.1f} % of {fast}")
            self.same_bits(name("none", 1), name("ddp", n), name("fsdp", n), name("hsdp", n))

    def checkpoint(self):
        n, steps, name = self.args.ranks, max(6, self.args.steps // 2), "resumed"
        whole = "tree-lora-none-1"
        if whole not in self.rows or not self.wanted(name):
            return
        self.head(f"a checkpoint of {n} ranks with FSDP, gone on with on one")
        output, log = self.work / "runs" / name, self.work / "runs" / f"{name}.log"
        if not self.train(name, n, n, ["--strategy", "fsdp", "--deterministic"], cell=False, steps=steps // 2, keep=True):
            return
        status = self.run(self.train_command(output, 1, n, steps, "", ["--strategy", "none", "--deterministic", "--resume"]), log,
                          self.args.limit)
        if status != 0:
            self.fail(name, f"--resume: exit status {status}: {self.error_of(log)}")
        else:
            self.measure(name, output, steps)
            self.same_bits(whole, name)
        shutil.rmtree(output, ignore_errors=True)  # its checkpoints are large

    def variants(self):
        """What may be faster: judged here, not part of the study."""
        n, full = self.args.ranks, ["--adapter-rank", 0, "--lr", "1e-5"]
        self.head("variants")
        for kind, options in (("lora", []), ("full", full)):
            base = f"{kind}-bf16-none-1"
            self.train(f"{kind}-bf16-grad_op-{n}", n, n, ["--strategy", "fsdp", "--fsdp-mode", "shard_grad_op", *options], cell=False)
            self.share(f"{kind}-bf16-grad_op-{n}", base, n)
            if self.args.device == "cuda":
                for key, value in (("LLMFT_PEER_COPIES", "0"), ("NCCL_MAX_CTAS", "8")):
                    name = f"{kind}-bf16-fsdp-{key.lower()}-{value}-{n}"
                    self.train(name, n, n, ["--strategy", "fsdp", *options], cell=False, env={key: value})
                    self.share(name, base, n)

    def more_precisions(self):
        n = self.args.ranks
        self.head("LoRA, tf32 and fp16")
        for precision in ("tf32", "fp16"):
            for strategy, count in (("none", 1), ("ddp", n), ("fsdp", n)):
                name = f"lora-{precision}-{strategy}-{count}"
                self.train(name, count, count, ["--strategy", strategy, "--precision", precision])
                self.share(name, f"lora-{precision}-none-1", count)

    # --- peers ---

    def peers(self):
        a, n = self.args, self.args.ranks
        if not a.peers or self.peer is None or not self.wanted("peers"):
            return
        self.head("peers: Hugging Face and Liger, the same tokens a rank and step")
        log = self.work / "peers.log"
        if self.run([a.peer_python, "-c", "import torch, transformers, peft"], log, 120) != 0:
            self.say(f"left out: {self.error_of(log)}")
            return
        # Liger goes with bf16 weights, as its examples do; Hugging Face with autocast, as its Trainer does.
        runs = [("hf", "lora", "", 1), ("hf", "lora", "ddp", n), ("hf", "lora", "fsdp", n), ("liger", "lora", "", 1),
                ("liger", "lora", "ddp", n), ("liger", "lora", "fsdp", n), ("hf", "full", "fsdp", n), ("liger", "full", "fsdp", n)]
        for impl, kind, dist, count in runs:
            self.peer_run(impl, kind, dist, count)
        for impl in ("hf", "liger"):
            for kind, dist in (("lora", "ddp"), ("lora", "fsdp"), ("full", "fsdp")):
                mine, theirs = f"{kind}-bf16-{dist}-{n}", f"peer-{impl}-{kind}-{dist}-{n}"
                if mine in self.rows and theirs in self.rows:
                    self.say(f"  {mine}: {self.rows[mine]['tok_s'] / self.rows[theirs]['tok_s']:.2f} x {theirs}")

    def peer_run(self, impl, kind, dist, count):
        a = self.args
        name = f"peer-{impl}-{kind}-{dist or 'none'}-{count}"
        if not self.wanted(name):
            return
        launcher = [a.peer_python] if count == 1 else [a.peer_python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
        # Hugging Face keeps all logits: half the batch of the others, as much as fits 80 GB
        batch = a.tokens // a.sample // (2 if impl == "hf" and not a.tiny else 1)
        command = [*launcher, self.peer, "--impl", impl, "--prec", "bf16w" if impl == "liger" else "bf16", "--batch", max(1, batch),
                   "--seq", a.sample, "--steps", 4 if a.tiny else 8, "--model", a.model, "--device", a.device, "--name", name]
        table = self.report / "benchmarks.csv"
        command += ["--table", table] if table.exists() else []
        command += ["--dist", dist] if dist else []
        command += ["--full"] if kind == "full" else []
        log, site = self.work / "runs" / f"{name}.log", HERE / "site"
        path = [str(site)] if impl == "liger" and site.is_dir() else []
        env = {"PYTHONPATH": os.pathsep.join(path + [os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
        status = self.run(command, log, a.limit, env)
        found = re.search(r"^RESULT (.*)$", log.read_text(errors="replace"), re.M)
        if status != 0 or found is None:
            # a peer that is not there or does not fit is no fault of ours
            self.say(f"{name}: left out, exit status {status}: {self.error_of(log)}")
            return
        r = json.loads(found[1])
        self.rows[name] = {"tok_s": r["tok_s"]}
        self.say(f"{name:36s} {r['tok_s']:10,.0f} tok/s {r['ms']:8.1f} ms  {r['B']} x {r['S']}  peak {r['alloc_GB']:.2f} GB  {r['version']}")

    def all(self):
        self.prepare()
        self.machine()
        self.strategies()
        self.peers()
        self.deterministic()
        self.weak_and_strong()
        self.fp32()
        self.variants()
        self.checkpoint()
        self.more_precisions()
        if self.skipped:
            self.say(f"\nleft out, the time was used up: {', '.join(self.skipped)}")
        self.head(f"done: {'SOMETHING FAILED: ' + ', '.join(self.failed) if self.failed else 'all good'}; keep {self.report}")
        return 1 if self.failed else 0


def gpu_count():
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False) if shutil.which("nvidia-smi") else None
    return len(re.findall(r"^GPU \d+", done.stdout, re.M)) if done else 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", nargs="?", type=pathlib.Path, default=pathlib.Path("gpu-runs"), help="folder for all that is made (gpu-runs)")
    p.add_argument("--programs", type=pathlib.Path, default=HERE, help="bundle or build folder (this file's)")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--ranks", type=int, help="a power of two from 2 on (as many as there are GPUs)")
    p.add_argument("--tokens", type=int, help="a rank and step (16384; tiny: 256)")
    p.add_argument("--sample", type=int, help="tokens of a sample (1024; tiny: 64)")
    p.add_argument("--steps", type=int, help="of a run (16; tiny: 6)")
    p.add_argument("--budget", type=float, default=430, help="seconds after which no run is begun (430)")
    p.add_argument("--limit", type=float, default=120, help="seconds that one run may take (120)")
    p.add_argument("--only", default=".", help="a pattern of run names")
    p.add_argument("--model", type=pathlib.Path, help="a model folder (random weights)")
    p.add_argument("--data", type=pathlib.Path, help="shards (made up)")
    p.add_argument("--tiny", action="store_true", help="small shapes, to rehearse on a CPU")
    p.add_argument("--no-peers", dest="peers", action="store_false")
    p.add_argument("--peer-python", default=sys.executable, help="the Python that has torch, transformers and peft")
    a = p.parse_args()
    a.ranks = a.ranks or (gpu_count() if a.device == "cuda" else 2)
    if a.ranks < 2 or a.ranks & (a.ranks - 1):
        sys.exit(f"error: {a.ranks} ranks; needs 2, 4 or 8 GPUs (--ranks chooses fewer, --device cpu none)")
    a.tokens, a.sample, a.steps = a.tokens or (256 if a.tiny else 16384), a.sample or (64 if a.tiny else 1024), a.steps or (6 if a.tiny else 16)
    for name in ("model", "data"):
        if getattr(a, name) is not None:
            setattr(a, name, getattr(a, name).resolve())
    return Check(a).all()


if __name__ == "__main__":
    sys.exit(main())
