"""Which rows a figure of the study's table shows in the report, and what stands under it."""

from cells import NotMeasured
from document import Block, Paragraph, Picture, say
from facts import Facts
from read import Benchmark, read_benchmarks

SEVERAL = ("DDP_VS_FSDP", "speedup_plot")
WORDS = {  # alternative text, caption
    "beside": (
        "samples a second by precision, published, peers and llmft",
        "Samples a second at the original's setting.",
    ),
    "throughput": ("throughput by precision", "Throughput by precision."),
    "epoch_time": ("time of an epoch by precision", "Time of an epoch by precision."),
    "training_time": ("training time by precision", "Training time by precision."),
    "memory_usage": ("peak memory by precision", "Peak memory by precision."),
    "DDP_VS_FSDP": ("DDP against FSDP, throughput and memory", "DDP against FSDP."),
    "speedup_plot": ("speedup over the number of GPUs, with the ideal line", "Speedup, with the ideal line."),
    "roofline": (
        "time of a step by kernel group, and share of the roofline",
        "Time by kernel group, and how near each is to the roofline.",
    ),
    "memory_parts": ("memory of a rank by part", "What lies in a rank's memory."),
    "loss_by_precision": ("training loss by step and precision", "Losses of runs that differ in precision alone."),
    "time_to_loss": ("validation loss by training time", "Time to a given validation loss."),
    "evaluation": ("scores of base and fine-tuned models", "Before and after fine-tuning."),
}
for _strategy in ("ddp", "fsdp"):
    for _name, _words in (
        ("time", "training time"),
        ("epoch_time", "epoch time"),
        ("throughput", "throughput"),
        ("memory", "memory of a rank"),
    ):
        WORDS[f"{_name}_gpu_{_strategy}"] = (
            f"{_words} by number of GPUs, {_strategy.upper()}",
            f"By number of GPUs, {_strategy.upper()}: {_words}.",
        )


def of_one_program(rows: list[Benchmark]) -> list[Benchmark]:
    """A line is one program's: of each precision and mode the commit with the most cells, of equals the newest."""
    groups: dict[tuple, dict[str, list[Benchmark]]] = {}
    for row in rows:
        key = (row.precision, row.mode, row.adapter_rank)
        groups.setdefault(key, {}).setdefault(row.fields.get("commit") or "", []).append(row)

    def worth(of: list[Benchmark]) -> tuple:
        return len({(row.strategy, row.ranks) for row in of}), max(row.time_utc for row in of)

    best = {id(row) for programs in groups.values() for row in max(programs.values(), key=worth)}
    return [row for row in rows if id(row) in best]


def rows_of(facts: Facts, name: str) -> list[Benchmark]:
    """One device's: by precision that of the original's setting, and there that setting alone where two precisions have it;
    by ranks that with the most runs on several."""
    path = facts.m.folder / "benchmarks.csv"
    rows = read_benchmarks(path) if path.is_file() else []
    if not rows:
        raise NotMeasured("no finished training run")
    by_ranks = name in SEVERAL or "_gpu_" in name
    if by_ranks:
        device = facts.scaling_device()
        if device is None:
            raise NotMeasured("no run on several ranks")
        return of_one_program([row for row in rows if row.device == device])
    setting = facts.original_setting
    if setting is not None and len(facts.single[setting]) > 1:
        inside = {row.text("run") + row.text("time_utc") for of in facts.single[setting].values() for row in of}
        chosen = [row for row in rows if row.run + row.time_utc in inside]
        column = {
            "throughput": "tokens_per_s",
            "epoch_time": "epoch_time_s",
            "training_time": "training_time_s",
            "memory_usage": "peak_memory_bytes",
        }[name]
        if any(getattr(row, column) is not None for row in chosen):
            return chosen
    single = [row for row in rows if row.ranks == 1]
    count = {d: len({row.precision for row in single if row.device == d}) for d in {row.device for row in single}}
    if not count:
        raise NotMeasured("no run on one rank")
    device = max(sorted(count), key=lambda d: (count[d], "H100" in d))
    return of_one_program([row for row in single if row.device == device])


def maker(drawn: dict[str, str]):
    """picture(name): the figure, or a word that it was not measured."""

    def picture(name: str) -> list[Block]:
        alt, caption = WORDS[name]
        if drawn.get(name) == "":
            return [Picture(name, alt, say(caption))]
        return [Paragraph(say('Figure "{title}": {it}.', title=caption.rstrip("."), it=None))]

    return picture
