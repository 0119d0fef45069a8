"""Each of the report's checks of its own measurements passes on a good study and fails on one that is spoilt."""

import pytest
import study
from study_files import COLUMNS, run

import check as check_module
import checks
from document import plain

SPOILS = {
    checks.first_loss: lambda s: s.cells["lora-bf16-none-1-8192"].update(loss_first=10.9),
    checks.base_loss: lambda s: s.quality_runs["quality-bf16"]["results"].update(valid_loss_first=3.6),
    checks.floor: lambda s: s.runs["lora-bf16-none-1-8192"].update(losses=[12.0, 3.0]),
    checks.supervised: lambda s: s.cells["lora-bf16-none-1-8192"].update(supervised_tokens=81920),
    checks.parity: lambda s: s.runs["lora-bf16-none-1-8192"].update(losses=[12.0, 11.5, 11.3] + [7.0] * 7),
    checks.quality_gain: lambda s: s.quality[1].update(difference_low=-0.1),
    checks.quality_parity: lambda s: s.agreement[4].update(high=50),
    checks.quality_own: lambda s: s.quality_checks[0].update(value=3),
    checks.fsdp_memory: lambda s: s.runs["lora-fp32-fsdp-2-8192"]["memory"][1].update(
        peak=int(20e9), workspace=int(9e9)
    ),
    checks.memory_parts: lambda s: s.runs["lora-fp32-fsdp-2-8192"]["memory"][0].update(weights=0),
    checks.same_bits: lambda s: s.runs["tree-fsdp"]["losses"].__setitem__(3, 9.87654),
    checks.rates: lambda s: s.cells["lora-bf16-none-1-8192"].update(samples_per_s=300),
    checks.physics: lambda s: s.cells["lora-bf16-none-1-8192"].update(mfu=1.2),
    checks.skipped: lambda s: s.runs["lora-bf16-none-1-8192"].update(losses=[12.0] + [12.5] * 9),
    checks.repeats: lambda s: s.cells.update(
        again=s.cells["lora-bf16-none-1-8192"] | dict(tokens_per_s=90000, time_utc="2026-03-01T11:00:00Z")
    ),
}


@pytest.mark.parametrize("check", checks.ALL, ids=lambda c: c.__name__)
def test_a_check_can_fail(tmp_path, check):
    s = study.Study()
    if check is checks.repeats:
        s.cells["again"] = s.cells["lora-bf16-none-1-8192"] | dict(time_utc="2026-03-01T11:00:00Z", tokens_per_s=122000)
    good = check(s.facts(tmp_path / "good"))
    assert good.passed is True, [plain(t) for t in good.failures]
    SPOILS[check](s)
    bad = check(s.facts(tmp_path / "bad"))
    assert bad.passed is False and "FAILED" in "".join(str(p) for p in check_module.outcome(bad))
    few = study.Study()
    few.cells, few.variants, few.runs, few.quality, few.quality_runs = {}, {}, {}, [], {}
    few.cells["a"] = dict.fromkeys(COLUMNS, "") | dict(
        run="a", command="train", precision="bf16", strategy="none", mode="lora", ranks=1
    )
    assert check(few.facts(tmp_path / "none")).passed is None, "nothing to look at is not a pass"


def test_parity_of_the_last_steps(tmp_path):
    s = study.Study()
    for precision in study.SPEED:
        s.quality_runs[f"quality-{precision}"]["losses"] = [3.0 - 0.01 * k for k in range(100)]
    assert checks.parity(s.facts(tmp_path / "a")).passed is True
    losses = s.quality_runs["quality-bf16"]["losses"]
    losses[70] += 0.5  # one batch among many tells nothing
    assert checks.parity(s.facts(tmp_path / "b")).passed is True
    losses[80:] = [loss + 0.2 for loss in losses[80:]]
    assert checks.parity(s.facts(tmp_path / "c")).passed is False


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.update(tokens_per_s=2.2 * r["tokens_per_s"], step_time_median_s=""),
        lambda r: r.update(joules_per_token=0.1),
        lambda r: r.update(peak_memory_bytes=int(90e9)),
    ],
)
def test_physics(tmp_path, spoil):
    s = study.Study()
    spoil(s.cells["lora-bf16-ddp-2-8192"])
    assert checks.physics(s.facts(tmp_path)).passed is False


def test_a_failed_check_stands_on_the_first_page(tmp_path):
    s = study.Study()
    SPOILS[checks.first_loss](s)
    folder = s.write(tmp_path / "m")
    assert run("report.py", "--measured", folder, "--out", tmp_path / "out").returncode == 0
    text = (tmp_path / "out/report.md").read_text()
    assert 0 < text.index("**FAILED:**") < text.index("## ")
    assert "lora-bf16-none-1-8192: 10.900 nats" in text
    assert 'class="note bad"' in (tmp_path / "out/report.html").read_text()
