#!/usr/bin/env python3
"""Is fine-tuning worth it, in every precision? Trains, evaluates and judges the tiny model on the shipped sample.

    tools/quality.py                                       # a CPU: minutes on 2 cores
    tools/quality.py --device cuda --program bundle/llmft  # one GPU; python3 with numpy, pyarrow and h5py

1. The sample is preprocessed with a validation split of 20 % that no training sees, the base's included: counted, not assumed.
2. The "pretrained" model: the shipped random weights, all trained in fp32 on the rows of seven of the twelve kinds of tasks.
   It writes the answers' language and knows those tasks; the other five it has never seen.
3. Fine-tuning on the training rows of all tasks, in every precision, from several seeds: LoRA on q, v, o, and all weights.
4. Each model, and the base in the same precision, answers every validation row; 95 % bootstrap intervals, paired for differences.

Verdicts: fine-tuned beats pretrained beyond the interval, in every precision, mode and metric; precisions agree within it (the
paired difference, with its interval, is smaller than half the interval of the score: an equivalence test); losses start and end
where they must. Exit code 1 if one fails, 2 if something could not be run.

WORK and OUTPUT are replaced, each if it is empty or has the mark of an earlier run (.llmft-quality); another folder is refused.
OUTPUT gets quality.csv, agreement.csv, checks.csv, quality.json and runs/NAME/{config.yaml,run.json,steps.csv,eval.csv}
(docs/formats.md); WORK the models, adapters, shards, answers and logs.
"""
import argparse
import concurrent.futures
import csv
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from quality_verdicts import Bootstrap, UserError, near, read_samples, verdicts

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = pathlib.Path(os.path.relpath(ROOT / "inputs/tiny"))
NEW_TASKS = re.compile("what colour|upper case|Spell backwards|Which is larger|How many words")
VALIDATION = 0.2
# One learning rate a mode for all precisions. beta2 0.98 because a batch is a dozen samples and a run a few hundred steps.
COMMON = ["--strategy", "none", "--pack-tokens", 512, "--batch-packs", 1, "--train.schedule=cosine", "--train.warmup_steps=20",
          "--train.beta2=0.98", "--validation.packs=0", "--checkpoint-every", 0, "--results", "", "--overwrite"]
MODES = {"lora": ["--adapter-rank", 32, "--adapter-alpha", 64, "--lr", "3e-3"], "full": ["--adapter-rank", 0, "--lr", "2e-3"]}
BASE = ["--adapter-rank", 0, "--lr", "3e-3", "--precision", "fp32"]
MARK = ".llmft-quality"  # a file in WORK and OUTPUT: without it a folder is somebody else's
TOLERANCE = 0.01  # nats, between two ways to compute the same loss in one precision
LOG_V_TOLERANCE = 0.15  # random logits of standard deviation 0.2 to 0.3 cost 0.03 to 0.06 nats more than equal ones


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=pathlib.Path(os.path.relpath(ROOT / "llmft")), help="llmft, or that of a bundle (default: ./llmft)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precisions", help="default: fp32,tf32,fp16,bf16; on a GPU fp8 too, where this version has it")
    parser.add_argument("--modes", default="lora,full")
    parser.add_argument("--seeds", default="0,1", help="of every fine-tuning: order of the data, adapter's start (default 0,1)")
    parser.add_argument("--steps", type=int, default=500, help="of every fine-tuning (default 500)")
    parser.add_argument("--base-steps", type=int, default=500, help="of the base's training (default 500)")
    parser.add_argument("--validate-every", type=int, default=25, metavar="STEPS")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--jobs", type=int, help="runs at a time (default: the cores, at most 4; on a GPU at most 8)")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/quality"))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("results/quality"))
    args = parser.parse_args()
    args.precisions = (args.precisions or "fp32,tf32,fp16,bf16" + (",fp8" if args.device == "cuda" else "")).split(",")
    args.modes, args.seeds = args.modes.split(","), [int(s) for s in args.seeds.split(",")]
    if bad := [m for m in args.modes if m not in MODES]:
        parser.error(f"--modes: '{bad[0]}' is neither lora nor full")
    args.jobs = args.jobs or min(8 if args.device == "cuda" else 4, len(os.sched_getaffinity(0)))
    return args


class NoSuchPrecision(UserError):
    pass


def may_be_replaced(folder):
    """An earlier run's, told by its mark, or an empty one: nothing else is ever deleted."""
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))):
        raise UserError(f"{folder}: is there and was not made by this program (it has no {MARK}), so it is not replaced; move it away, or name another folder")


def fresh(folder):
    may_be_replaced(folder)
    if folder.exists():
        shutil.rmtree(folder.resolve())
    folder.mkdir(parents=True)
    (folder / MARK).write_text("made by tools/quality.py, which replaces this folder when it runs again\n")


class Programs:
    def __init__(self, args):
        self.args, self.logs = args, args.work / "logs"
        self.program = args.program.resolve()
        if not os.access(self.program, os.X_OK):
            raise UserError(f"{args.program}: no program there; build it ('make'), or give --program")
        self.env = dict(os.environ, NO_COLOR="1", OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        work, output = args.work.resolve(), args.output.resolve()
        if work == output or work in output.parents or output in work.parents:
            raise UserError(f"--work {args.work} and --output {args.output}: one lies in the other, and each is replaced as a whole; name two folders apart")
        may_be_replaced(args.output)  # before hours of work
        fresh(args.work)
        self.logs.mkdir()

    def llmft(self, name, *command):
        log = self.logs / f"{name}.log"
        with log.open("w") as out:
            code = subprocess.run([self.program, *map(str, command)], env=self.env, stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=subprocess.STDOUT).returncode
        if code != 0:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            said = next((line for line in lines if "error" in line), lines[-1] if lines else "nothing")
            kind = NoSuchPrecision if code == 2 and "error: --precision" in said else UserError
            raise kind(f"llmft {command[0]} of {name} ended with {code}: {said} (log: {log})")

    def train(self, name, model, data, steps, *options):
        device = ["--device", self.args.device, "--threads", 1]
        self.llmft(name, "train", "--model", model, "--data", data, "--output", self.args.work / name, *COMMON, *device, "--steps", steps,
                   f"--validation.every={self.args.validate_every}", *options)

    def evaluate(self, name, precision, model, *options):
        self.llmft(f"eval-{name}", "eval", "--model", model, "--data", self.args.work / "shards/valid", "--precision", precision,
                   "--device", self.args.device, "--threads", 1, "--samples", -1, "--max-tokens", 96, "--eval.resamples=100",
                   "--output", self.args.work / "eval" / name, *options)

    def preprocess(self, name, source):
        self.llmft(name, "preprocess", "--input", source, "--tokenizer", TINY / "model", "--output", self.args.work / name,
                   "--max-length", 256, "--validation", VALIDATION, "--preprocess.rows_per_shard=512")


def hashes(folder):
    """Of all samples of a shard folder."""
    import h5py
    out = set()
    for path in sorted(folder.glob("shard-*.h5")):
        with h5py.File(path) as file:
            out.update(file["hash"][:].tolist())
    return out


def prepare(programs, work):
    """Shards of all tasks and of the base's. Returns what is known of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    rows = pq.read_table(TINY / "sample.parquet")
    known = [not NEW_TASKS.search(question or "") for question in rows["question"].to_pylist()]
    pq.write_table(rows.filter(pa.array(known)), work / "base.parquet")
    programs.preprocess("shards", TINY / "sample.parquet")
    programs.preprocess("base-shards", work / "base.parquet")
    train, valid = (json.loads((work / "shards" / part / "manifest.json").read_text()) for part in ("", "valid"))
    held_out = hashes(work / "shards/valid")
    return {"source": "inputs/tiny/sample.parquet", "fingerprint": train["fingerprint"], "train_samples": train["kept"],
            "train_tokens": train["tokens"], "train_supervised_tokens": train["loss_tokens"], "valid_samples": valid["kept"],
            "valid_supervised_tokens": valid["loss_tokens"], "base_train_samples": len(hashes(work / "base-shards")),
            "overlap": valid["overlap"] + len(held_out & hashes(work / "shards")), "base_overlap": len(held_out & hashes(work / "base-shards")),
            "vocabulary": json.loads((TINY / "model/config.json").read_text())["vocab_size"]}


def train_and_evaluate(programs, args):
    """Names of runs by (mode, precision), and precisions that this program does not have."""
    base = args.work / "base/model"
    print(f"base: {args.base_steps} steps", flush=True)
    programs.train("base", TINY / "model", args.work / "base-shards", args.base_steps, *BASE)

    def tune(mode, precision, seed):
        name = f"{mode}-{precision}-s{seed}"
        programs.train(name, base, args.work / "shards", args.steps, *MODES[mode], "--precision", precision, "--seed", seed)
        made = args.work / name
        if mode == "lora":
            programs.evaluate(name, precision, base, "--adapter", made / "adapter")
        else:
            programs.evaluate(name, precision, made / "model")
        return name

    runs, refused, ended = {}, {}, []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        jobs = {pool.submit(programs.evaluate, f"base-{p}", p, base): ("base", p) for p in args.precisions}
        for mode in args.modes:
            for precision in args.precisions:
                for seed in args.seeds:
                    jobs[pool.submit(tune, mode, precision, seed)] = (mode, precision)
        for job in concurrent.futures.as_completed(jobs):
            mode, precision = jobs[job]
            try:
                ended.append((mode, precision, job.result()))
                print(f"{len(ended)} of {len(jobs)}: {mode} {precision}", flush=True)
            except UserError as error:
                if precision != "fp8" or not isinstance(error, NoSuchPrecision):  # the one that not every version and device has
                    pool.shutdown(cancel_futures=True)
                    raise
                refused[precision] = str(error)
    for mode in args.modes:
        for precision in args.precisions:
            if precision not in refused:
                runs[mode, precision] = sorted(name for m, p, name in ended if (m, p) == (mode, precision))
    return runs, refused


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report(run):
    return json.loads((run / "run.json").read_text())


def judge(args, data, runs):
    """Rows of the three tables."""
    work = args.work
    precisions = list(dict.fromkeys(p for _, p in runs))
    rows, counts = read_samples(work / "eval" / f"base-{precisions[0]}" / "samples.csv")
    bootstrap = Bootstrap(len(rows), args.resamples, seed=0)

    def samples(name, system):
        of, values = read_samples(work / "eval" / name / "samples.csv", system)
        if of != rows:
            raise UserError(f"{work / 'eval' / name}: has other samples than {work / 'eval' / ('base-' + precisions[0])}")
        return values

    base = {p: bootstrap.system([samples(f"base-{p}", "base")]) for p in precisions}
    tuned = {(mode, p): bootstrap.system([samples(n, "adapter" if mode == "lora" else "base") for n in names])
             for (mode, p), names in runs.items()}
    gains, agreement = verdicts(base, tuned)
    device, build = report(work / "base")["device"], report(work / "base")["build"]
    for row in gains:
        names = runs[row["mode"], row["precision"]]
        row |= {"samples": len(rows), "seeds": " ".join(n.rsplit("-s", 1)[1] for n in names), "runs": " ".join(names),
                "version": build["version"], "git": build["git"] or "", "device": device}

    first = report(work / "base")["results"]
    fraction = data["train_supervised_tokens"] / data["train_tokens"]
    checks = [near("validation samples that training saw", "base", data["base_overlap"], 0, 0),
              near("validation samples that training saw", "fine-tuning", data["overlap"], 0, 0),
              near("supervised share of training tokens is between 10 and 90 %", "fine-tuning", fraction, 0.5, 0.4),
              near("random weights: loss before step 1 is log V", "base", first["valid_loss_first"], math.log(data["vocabulary"]), LOG_V_TOLERANCE)]
    for (mode, precision), names in runs.items():
        for name in names:
            results = report(work / name)["results"]
            loss = scores_of(samples(name, "adapter" if mode == "lora" else "base"))
            checks += [near("loss before step 1 is the base's", name, results["valid_loss_first"], base[precision].value["valid_loss"], TOLERANCE),
                       near("the trainer's last loss is the evaluation's", name, results["valid_loss_last"], loss, TOLERANCE),
                       near("share of losses that are finite and above 0", name, sound_share(work / name), 1, 0)]
            written = {(r["metric"], r["system"]): float(r["value"]) for r in read_table(work / "eval" / name / "eval.csv")}
            one = bootstrap.system([samples(name, "base")]).value
            checks += [near(f"{metric} from samples.csv is eval.csv's", name, one[metric], written[metric, "base"], 1e-6)
                       for metric in ("perplexity", "BLEU", "ROUGE-L")]
    return gains, agreement, checks


def scores_of(counts):
    return float(counts[:, 0].sum() / counts[:, 1].sum())


def sound_share(run):
    losses = [float(row["loss"]) for row in read_table(run / "steps.csv")]
    return sum(math.isfinite(loss) and loss > 0 for loss in losses) / len(losses)


def short(column, text):
    """Digits enough for a curve."""
    try:
        return text if text.isdigit() else f"{float(text):.{5 if 'loss' in column else 3}g}"
    except ValueError:
        return text


def write_table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.8g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def gather(args, runs, tables, summary):
    """The small results in OUTPUT: the tables, and of runs, the first seed's, what a report draws."""
    fresh(args.output)
    for name in ["base", *(names[0] for names in runs.values())]:
        to = args.output / "runs" / name
        to.mkdir(parents=True)
        for file in ("config.yaml", "run.json"):
            shutil.copy(args.work / name / file, to)
        steps = read_table(args.work / name / "steps.csv")
        write_table(to / "steps.csv", [{k: short(k, v) for k, v in row.items()} for row in steps])
        if name != "base":
            shutil.copy(args.work / "eval" / name / "eval.csv", to)
    for name, rows in tables.items():
        if rows:
            write_table(args.output / name, rows)
    (args.output / "quality.json").write_text(json.dumps(summary, indent=1) + "\n")


def show(gains, agreement, checks):
    print(f"\n{'':6}{'mode':6}{'metric':11}{'pretrained':>11}{'fine-tuned':>11}  {'difference, paired 95 %':32}{'seeds apart':>11}  beats it")
    for r in gains:
        difference = f"{r['difference']:+.3f} [{r['difference_low']:+.3f}, {r['difference_high']:+.3f}]"
        print(f"{r['precision']:6}{r['mode']:6}{r['metric']:11}{r['base']:11.3f}{r['tuned']:11.3f}  {difference:32}{r['seed_spread']:11.3f}  {r['verdict']}")
    if agreement:
        print(f"\n{'precisions':14}{'mode':6}{'metric':11}{'difference, paired 95 %':32}{'margin':>8}  {'0 inside':9} agree")
    for r in agreement:
        difference = f"{r['difference']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
        pair = f"{r['precision']} - {r['reference']}"
        print(f"{pair:14}{r['mode']:6}{r['metric']:11}{difference:32}{r['margin']:8.3f}  {'yes' if r['zero_inside'] else 'no':9} {r['verdict']}")
    failed = [r for r in checks if r["verdict"] != "holds"]
    print(f"\n{len(checks) - len(failed)} of {len(checks)} checks hold")
    for r in failed:
        print(f"FAILS: {r['run']}: {r['check']}: {r['value']:.6g}, expected {r['expected']:.6g} +- {r['tolerance']:.3g}")


def study(args):
    started = time.monotonic()
    programs = Programs(args)
    data = prepare(programs, args.work)
    runs, refused = train_and_evaluate(programs, args)
    gains, agreement, checks = judge(args, data, runs)
    failed = [row for table in (gains, agreement, checks) for row in table if row["verdict"] != "holds"]
    summary = {"holds": not failed, "failed": len(failed), "seconds": round(time.monotonic() - started, 1), "data": data,
               "settings": {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in vars(args).items() if k != "program"}, "left_out": refused}
    gather(args, runs, {"quality.csv": gains, "agreement.csv": agreement, "checks.csv": checks}, summary)
    show(gains, agreement, checks)
    for precision, why in refused.items():
        print(f"left out: {precision}: {why}")
    print(f"\n{'every verdict holds' if not failed else f'{len(failed)} verdicts FAIL'}; {args.output}, {summary['seconds']:.0f} s")
    return 1 if failed else 0


def main():
    try:
        return study(parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except FileNotFoundError as error:  # of what llmft should have written
        print(f"error: {error.filename}: is not there, though every program ended well; see their logs (WORK/logs)", file=sys.stderr)
    except OSError as error:
        print(f"error: {f'{error.filename}: {error.strerror}' if error.filename else error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
