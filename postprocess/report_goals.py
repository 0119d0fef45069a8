"""What the project asked of itself, and whether it is so."""

import figures
from document import Block, Name, number, percent, ratio, say, table, times
from facts import Facts


def goals(facts: Facts) -> Block:
    """What the project asked of itself, and whether it is so."""
    setting, rows = facts.original_setting, []
    device = facts.scaling_device()

    def add(words, value: float | None, source: str, goal, shown, least: bool = True) -> None:
        wanted = facts.reference.goals[goal]
        met = None if value is None else (value >= wanted["value"]) == least or value == wanted["value"]
        rows.append(
            [
                words,
                shown(value, source),
                shown(wanted["value"], wanted.source("value")),
                say("{it}", it=None) if met is None else say("met" if met else "**not met**"),
            ]
        )

    for precision in ("fp32", "fp16", "bf16"):
        mine, published = (
            facts.ours(setting, precision, "samples_per_s"),
            facts.original_speed()[precision]["published"],
        )
        value = ratio(mine and mine.value, published and published.value)
        add(
            say("{p}: samples/s over the published", p=Name(precision)),
            value,
            mine.source if mine else "",
            ("times_published", precision),
            times,
        )
    tf32, published = facts.ours(setting, "tf32", "samples_per_s"), facts.original_speed()["fp32"]["published"]
    add(
        say("tf32: samples/s over the published fp32"),
        ratio(tf32 and tf32.value, published and published.value),
        tf32.source if tf32 else "",
        ("times_published_fp32", "tf32"),
        times,
    )
    peak = facts.ours(setting, "bf16", "peak_memory_bytes")
    gb = lambda value, source: number(value, source, 2, " GB")  # noqa: E731
    add(
        say("bf16: peak memory, at most"),
        peak and peak.value / 1e9,
        peak.source if peak else "",
        ("memory_gb", "bf16"),
        gb,
        least=False,
    )
    tokens = facts.ours(setting, "bf16", "tokens_per_s")
    whole = lambda value, source: number(value, source, 0)  # noqa: E731
    add(
        say("bf16: tokens/s at the original's setting"),
        tokens and tokens.value,
        tokens.source if tokens else "",
        ("tokens_per_s_original_setting", "bf16"),
        whole,
    )
    h100 = [s for s in facts.ordered_settings() if "H100" in s.device and s.fixed]
    for mode, precision, goal in (
        ("lora", "bf16", "tokens_per_s_lora"),
        ("lora", "tf32", "tokens_per_s_lora"),
        ("lora", "fp32", "tokens_per_s_lora"),
        ("full", "bf16", "tokens_per_s_full"),
    ):
        found = [
            facts.ours(s, precision, "tokens_per_s")
            for s in h100
            if s.mode == mode and (mode == "full" or s.adapter_rank < facts.original.rank)
        ]
        best = max((f for f in found if f), key=lambda f: f.value, default=None)
        add(
            say("{p} {mode}: tokens/s on one H100", p=Name(precision), mode=Name(figures.MODE_NAMES[mode])),
            best and best.value,
            best.source if best else "",
            (goal, precision),
            whole,
        )
    for mode, strategy, goal in (
        ("lora", "ddp", "efficiency_ddp"),
        ("lora", "fsdp", "efficiency_fsdp"),
        ("full", "fsdp", "efficiency_fsdp_full"),
    ):
        found = facts.main_scaling(device or "", mode=mode, precision="bf16", strategy=strategy, ranks=2)
        value = found[0].efficiency if found else None
        add(
            say(
                "bf16 {mode}, {s}: share of as many times one GPU",
                mode=Name(figures.MODE_NAMES[mode]),
                s=Name(strategy.upper()),
            ),
            value,
            found[0].many.source if found else "",
            (goal, "bf16"),
            percent,
        )
    for strategy in ("ddp", "fsdp"):
        pair = facts.beside(device or "", "lora", strategy, "Liger")
        value = pair[0].many.value / pair[1].many.value if pair else None
        words = say("bf16 LoRA, {s}: tokens/s over Liger's beside it", s=Name(strategy.upper()))
        add(words, value, pair[0].many.source if pair else "", ("times_liger", "bf16"), times)
    caption = say("Goals set before the measurements, and what was measured.")
    return table(["", "measured", "goal", ""], rows, caption)
