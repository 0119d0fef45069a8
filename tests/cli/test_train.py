"""`llmft train`, end to end: the same numbers on any number of ranks and after any interruption, FSDP's share of the
memory, what a run directory holds, loss scaling."""
import csv
import itertools
import json
import math
import pathlib
import re
import shutil
import signal
import time

import pytest
from runs import TINY, Run, contents, finish, llmft, make_model, rank_pids, read_safetensors, send, start, wait_for_step

FULL = ("--adapter-rank", 0)
SPLITS = [(1, "ddp"), (1, "fsdp"), (2, "ddp"), (2, "fsdp"), (4, "ddp"), (4, "fsdp"), (4, "hsdp")]


def sharing(strategy):
    return ("--strategy", strategy, *(("--hsdp-group", 2) if strategy == "hsdp" else ()))


def close(a, b, relative):
    return all(math.isclose(x, y, rel_tol=relative, abs_tol=0) for x, y in zip(a, b, strict=True))


# --- ranks and strategies ---------------------------------------------------------------------------------------------


def test_losses_do_not_depend_on_ranks_and_strategy(train_once):
    options = (*FULL, "--batch-packs", 12, "--pack-tokens", 64)
    one = train_once(*options, "--strategy", "none")
    assert one.losses()[0] > one.losses()[-1] > 0
    for ranks, strategy in [(2, "ddp"), (2, "fsdp"), (3, "fsdp"), (4, "ddp"), (4, "fsdp")]:
        run = train_once(*options, "--strategy", strategy, ranks=ranks)
        assert close(run.losses(), one.losses(), 1e-6), (ranks, strategy)
        assert run.columns("step", "epoch", "lr", "tokens", "supervised_tokens") == \
            one.columns("step", "epoch", "lr", "tokens", "supervised_tokens")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adapter_rank", [0, 4], ids=["full", "lora"])
def test_deterministic_gives_the_same_bits(train_once, precision, adapter_rank):
    options = ("--deterministic", "--precision", precision, "--adapter-rank", adapter_rank)
    runs = [train_once(*options, *sharing(strategy), ranks=ranks) for ranks, strategy in SPLITS]
    assert len(runs[0].rows()) == 4
    for (ranks, strategy), run in zip(SPLITS, runs):
        assert run.numbers() == runs[0].numbers(), (ranks, strategy)
        assert run.product() == runs[0].product(), (ranks, strategy)


def test_precisions_differ(train_once):
    """Or the tests above would say little about bf16."""
    fp32, bf16 = (train_once("--deterministic", "--precision", p, *FULL, "--strategy", "ddp") for p in ("fp32", "bf16"))
    assert fp32.losses() != bf16.losses() and close(fp32.losses(), bf16.losses(), 1e-2)


@pytest.mark.parametrize("adapter_rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_fsdp_takes_less_memory_than_ddp_on_every_rank(train_once, ranks, adapter_rank):
    options = ("--model", TINY, "--precision", "bf16", "--adapter-rank", adapter_rank, "--steps", 2)
    ddp = train_once(*options, "--strategy", "ddp", ranks=ranks).memory()
    for mode in ["full_shard", "shard_grad_op"]:
        fsdp = train_once(*options, "--strategy", "fsdp", "--fsdp-mode", mode, ranks=ranks).memory()
        assert max(fsdp["peak"]) < min(ddp["peak"]), mode
        assert len(fsdp["peak"]) == ranks
        for part in ["gradients", "optimizer"] + ["adapters"] * (adapter_rank > 0):
            for share in fsdp[part]:
                assert share <= 1.06 * ddp[part][0] / ranks, part  # blocks are cut at multiples of 64 and more elements
            assert sum(fsdp[part]) >= ddp[part][0] * 0.999, part  # all of it is somewhere
        if mode == "full_shard":  # of LoRA's frozen weights the embedding, 262,144 of 1,443,456, is whole
            assert max(fsdp["weights"]) < ddp["weights"][0] * (1 / ranks + 0.2)


@pytest.mark.parametrize("adapter_rank", [0, 4], ids=["full", "lora"])
def test_hsdp_takes_the_memory_of_its_group(train_once, adapter_rank):
    options = ("--model", TINY, "--precision", "bf16", "--adapter-rank", adapter_rank, "--steps", 2)
    two = train_once(*options, "--strategy", "fsdp", "--fsdp-mode", "full_shard", ranks=2).memory()
    four = train_once(*options, "--strategy", "hsdp", "--hsdp-group", 2, "--batch-packs", 8, ranks=4).memory()
    for part in ["weights", "gradients", "optimizer", "gathered"]:
        assert four[part] == two[part] * 2, part


def test_fsdp_gathers_a_few_layers_at_a_time(train, train_once, tmp_path):
    """What it holds beyond its share does not grow with the number of layers."""
    options = (*FULL, "--strategy", "fsdp", "--steps", 1)
    deep = train_once(*options, "--model", TINY, ranks=2).memory()
    flat = train(tmp_path / "flat", *options, "--model", make_model(tmp_path / "model", layers=5), ranks=2).memory()
    assert deep["weights"][0] > 1.08 * flat["weights"][0]
    assert deep["gathered"] == flat["gathered"] and flat["gathered"][0] > 0


# --- interruptions ----------------------------------------------------------------------------------------------------

LONG = ("--deterministic", "--steps", 12, "--checkpoint-every", 2, "--validation.every=5")
FP16 = ("--precision", "fp16", "--train.loss_scale=16e6", "--train.loss_scale_interval=3")


@pytest.mark.parametrize("how, before, after, options", [
    ("SIGUSR1", (2, "ddp"), (4, "fsdp"), FULL),
    ("SIGTERM", (1, "none"), (1, "none"), FULL),
    ("SIGKILL", (4, "fsdp"), (1, "ddp"), FULL),
    ("SIGKILL", (2, "ddp"), (2, "ddp"), FP16),
    ("SIGUSR1", (1, "fsdp"), (2, "fsdp"), FP16),
    ("SIGUSR1", (4, "hsdp"), (2, "fsdp"), FULL),
    ("SIGUSR1", (2, "fsdp"), (4, "hsdp"), FULL),
], ids=lambda v: v if isinstance(v, str) else "full" if v == FULL else "fp16" if v == FP16 else f"{v[1]}{v[0]}")
def test_interrupted_and_resumed_equals_uninterrupted(train, train_once, train_args, tmp_path, how, before, after,
                                                      options):
    whole = train_once(*LONG, *options, "--strategy", "ddp")
    run = Run(tmp_path / "run")
    process = start(*train_args, *LONG, *options, *sharing(before[1]), "--output", run.path, ranks=before[0])
    wait_for_step(process, run, 5)
    if how == "SIGKILL":
        send(process, signal.SIGKILL, rank=before[0] - 1)
        stderr = finish(process, timeout=10)
        assert process.returncode != 0
        assert not (run.path / "requeue").exists()
        assert any((run.path / "checkpoints" / name / "state.json").exists() for name in run.checkpoints())
    else:
        send(process, getattr(signal, how))
        stderr = finish(process)
        assert process.returncode == 0, stderr
        assert "stopped by a signal after step" in stderr and "go on with --resume" in stderr
        assert (run.path / "requeue").read_text().startswith("stopped by a signal after step")
        assert run.checkpoints()[-1] == f"step-{len(run.rows()):06}"
    assert not run.report()["finished"] and len(run.rows()) < 12

    resumed = train(run.path, *LONG, *options, *sharing(after[1]), "--resume", ranks=after[0])
    assert "resuming after step" in resumed.stderr
    assert [row["step"] for row in run.rows()] == [str(i) for i in range(1, 13)]
    assert run.numbers() == whole.numbers()
    assert run.product() == whole.product()
    assert not (run.path / "requeue").exists()
    results, expected = run.report()["results"], whole.report()["results"]
    for key in ("steps", "skipped_steps", "samples", "tokens", "supervised_tokens", "loss_first", "loss_last",
                "valid_loss_first", "valid_loss_last"):
        assert results[key] == expected[key], key
    assert run.report()["finished"]


def test_a_dead_rank_ends_all_within_ten_seconds(train_args, tmp_path):
    process = start(*train_args, "--steps", 100000, "--output", tmp_path / "run", ranks=4)
    wait_for_step(process, Run(tmp_path / "run"), 2)
    ranks = rank_pids(process)
    assert len(ranks) == 4
    send(process, signal.SIGKILL, rank=2)
    began = time.time()
    finish(process, timeout=20)
    assert process.returncode != 0
    while any(alive(pid) for pid in ranks):  # the launcher may be gone a moment before the last rank
        assert time.time() - began < 10
        time.sleep(0.01)
    assert time.time() - began < 10


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- checkpoints ------------------------------------------------------------------------------------------------------

# A constant learning rate: the same steps whatever their number.
STEADY = ("--deterministic", *FULL, "--train.schedule=constant", "--checkpoint-every", 2)


@pytest.fixture(scope="module")
def six_steps(train_once):
    """A run with checkpoints of steps 2, 4 and 6 on two ranks, and one that went on to step 8 by itself."""
    return (train_once(*STEADY, "--steps", 6, "--strategy", "fsdp", ranks=2),
            train_once(*STEADY, "--steps", 8, "--strategy", "fsdp"))


def test_keeps_the_newest_checkpoints(train_once, six_steps):
    assert six_steps[0].checkpoints() == ["step-000002", "step-000004", "step-000006"]
    kept = train_once(*STEADY, "--steps", 7, "--checkpoint.keep=2")
    assert kept.checkpoints() == ["step-000006", "step-000007"]
    state = json.loads((kept.path / "checkpoints/step-000007/state.json").read_text())
    assert state["state"]["step"] == 7 and list(state["files"]) == ["state-00000-of-00001.safetensors"]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_a_number(path):
    text = path.read_text()
    assert '"step": 6' in text
    path.write_text(text.replace('"step": 6', '"step": 7'))


DAMAGES = {
    "a flipped byte": lambda folder: flip(folder / "state-00001-of-00002.safetensors", -1000),
    "a truncated part": lambda folder: (folder / "state-00000-of-00002.safetensors").write_bytes(
        (folder / "state-00000-of-00002.safetensors").read_bytes()[:-100]),
    "a missing part": lambda folder: (folder / "state-00001-of-00002.safetensors").unlink(),
    "no state.json": lambda folder: (folder / "state.json").unlink(),
    "another number in state.json": lambda folder: flip_a_number(folder / "state.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(train, six_steps, tmp_path, damage):
    six, eight = six_steps
    shutil.copytree(six.path, tmp_path / "run")
    checkpoints = tmp_path / "run/checkpoints"
    DAMAGES[damage](checkpoints / "step-000006")
    shutil.copytree(checkpoints / "step-000004", checkpoints / "step-000009.tmp")  # a save that was killed
    run = train(tmp_path / "run", *STEADY, "--steps", 8, "--resume")
    [warning] = [line for line in run.stderr.splitlines() if "warning" in line]
    assert "step-000006" in warning and "trying the one before" in warning
    assert "resuming after step 4 of 8" in run.stderr
    assert run.numbers() == eight.numbers() and run.product() == eight.product()
    assert run.checkpoints() == ["step-000004", "step-000006", "step-000008"]


def test_checkpoints_of_a_lost_future_do_not_push_out_good_ones(train, six_steps, tmp_path):
    six, _ = six_steps
    shutil.copytree(six.path, tmp_path / "run")
    for step in (4, 6):
        (tmp_path / f"run/checkpoints/step-00000{step}/state.json").write_text("{}")
    run = train(tmp_path / "run", *STEADY, "--steps", 3, "--checkpoint.keep=1", "--resume")
    assert run.stderr.count("trying the one before") == 2
    assert run.checkpoints() == ["step-000003"] and len(run.rows()) == 3


@pytest.mark.parametrize("change, says", [
    (("--lr", "1e-3"), "train.lr was 0.004, is 0.001"),
    (("--train.seed=7",), "train.seed was 0, is 7"),
    (("--data", "another"), "data was"),
    (("--model", "another"), "model was"),
    (("--precision", "bf16"), "precision was fp32, is bf16"),
    (("--batch-packs", 8), "train.batch_packs was 4, is 8"),
    (("--adapter-rank", 4), "of another model or adapter"),
], ids=["lr", "seed", "data", "model", "precision", "batch", "adapter"])
def test_a_run_is_not_resumed_as_another(train_args, six_steps, train_once, tmp_path, change, says):
    six, _ = six_steps
    if change == ("--data", "another"):
        from runs import make_shards
        change = ("--data", make_shards(tmp_path / "other", rows=100, skip=400))
    if change == ("--model", "another"):
        change = ("--model", six.path / "model")
    shutil.copytree(six.path, tmp_path / "run")
    before = contents(tmp_path / "run")
    done = llmft(*train_args, *STEADY, "--steps", 8, "--output", tmp_path / "run", "--resume", *change)
    assert done.returncode == 2
    [error] = [line for line in done.stderr.splitlines() if "error:" in line]
    assert says in error and "checkpoints/step-000006" in error and "another --output" in error
    assert contents(tmp_path / "run") == before


def test_a_finished_run_is_left_alone(train, six_steps, tmp_path):
    shutil.copytree(six_steps[0].path, tmp_path / "run")
    before = contents(tmp_path / "run")
    again = train(tmp_path / "run", *STEADY, "--steps", 6, "--resume", ranks=2)
    assert "nothing left to do after step 6" in again.stderr
    assert contents(tmp_path / "run") == before


def test_a_run_killed_while_it_exported_is_finished_by_resume(train, six_steps, tmp_path):
    six = six_steps[0]
    shutil.copytree(six.path, tmp_path / "run")
    report = six.report() | {"finished": False, "results": {}}
    (tmp_path / "run/run.json").write_text(json.dumps(report))
    shutil.rmtree(tmp_path / "run/model")
    run = train(tmp_path / "run", *STEADY, "--steps", 6, "--resume")
    assert run.product() == six.product() and run.numbers() == six.numbers()
    assert run.report()["finished"]
    for key in ("steps", "loss_first", "loss_last", "valid_loss_first", "valid_loss_last"):
        assert run.report()["results"][key] == six.report()["results"][key]


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_tables_of_a_run(train_once, train_args):
    run = train_once("--deterministic", "--precision", "fp32", "--adapter-rank", 4, "--strategy", "fsdp", ranks=2)
    header = (run.path / "steps.csv").read_text().split("\n")[0]
    assert header.split(",") == ["step", "epoch", "loss", "lr", "grad_norm", "tokens_per_s", "supervised_tokens_per_s",
                                 "tokens", "supervised_tokens", "step_time_s", "data_wait_s", "imbalance", "loss_scale", "skipped",
                                 "mfu", "valid_loss"]
    rows = run.rows()
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert 0 < int(row["supervised_tokens"]) < int(row["tokens"]) <= 4 * 128
        assert float(row["tokens_per_s"]) == pytest.approx(int(row["tokens"]) / float(row["step_time_s"]))
        assert float(row["grad_norm"]) > 0 and row["skipped"] == "0" and row["loss_scale"] == row["mfu"] == ""
    assert [bool(row["valid_loss"]) for row in rows] == [False, False, False, True]

    report = run.report()
    assert report["finished"] is True and report["ranks"] == 2 and report["command"] == "train"
    results = report["results"]
    assert (results["steps"], results["planned_steps"], results["mode"], results["strategy"]) == (4, 4, "lora", "fsdp")
    assert results["loss_first"] == float(rows[0]["loss"]) and results["loss_last"] == float(rows[-1]["loss"])
    assert results["valid_loss_last"] == float(rows[-1]["valid_loss"]) < results["valid_loss_first"]
    assert results["tokens"] == sum(int(row["tokens"]) for row in rows)

    timing = list(csv.DictReader((run.path / "timing.csv").open()))
    for rank, phase in itertools.product("01", ("load", "data_wait", "forward_backward", "reduce", "optimizer",
                                                 "validation", "checkpoint", "export")):
        [row] = [r for r in timing if (r["rank"], r["phase"]) == (rank, phase)]
        assert float(row["seconds"]) >= 0 and int(row["count"]) >= 1
    memory = run.memory()
    assert set(memory) == {"weights", "adapters", "gradients", "optimizer", "activations", "logits", "workspace",
                           "gathered", "total", "peak"}
    for rank in (0, 1):
        parts = sum(memory[part][rank] for part in memory if part not in ("total", "peak"))
        assert memory["total"][rank] <= memory["peak"][rank] <= parts

    results_path = train_args[train_args.index("--results") + 1]
    [row] = [r for r in csv.DictReader(open(results_path)) if r["time_utc"] and r["loss_last"] == rows[-1]["loss"]
             and r["ranks"] == "2" and r["strategy"] == "fsdp" and r["mode"] == "lora"]
    assert (row["command"], row["precision"], row["adapter_rank"], row["steps"]) == ("train", "fp32", "4", "4")
    assert int(row["peak_memory_bytes"]) == max(memory["peak"])
    assert row["config_hash"] == report["config_hash"]
    manifest = json.loads((pathlib.Path(train_args[train_args.index("--data") + 1]) / "manifest.json").read_text())
    assert (row["max_length"], row["vocab_size"], row["adapter_alpha"]) == (str(manifest["settings"]["max_length"]), "2048", "32")
    assert float(row["sample_length_mean"]) == pytest.approx(manifest["tokens"] / manifest["kept"])
    assert float(row["padded_tokens_per_s"]) == pytest.approx(float(row["samples_per_s"]) * manifest["settings"]["max_length"])
    assert row["machine"].startswith("1 x ") and row["machine"].endswith(" CPUs") and "MPI " in row["versions"]
    assert row["joules_per_token"] == "" and results["joules_per_token"] is None  # too short, or no counter
    assert row["perplexity"] == row["bleu"] == row["rouge_l"] == ""


def test_the_resolved_config_makes_the_same_run(train_once, tmp_path):
    run = train_once("--deterministic", "--precision", "bf16", "--adapter-rank", 4, "--strategy", "ddp")
    done = llmft("train", "--config", run.path / "config.yaml", "--output", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    again = Run(tmp_path / "again")
    assert again.numbers() == run.numbers() and again.product() == run.product()
    assert again.report()["config_hash"] == run.report()["config_hash"]


def test_adapter_is_pefts_and_is_read_back(train, train_once, model, tmp_path):
    run = train_once("--deterministic", "--precision", "fp32", "--adapter-rank", 4, "--strategy", "ddp")
    assert sorted(p.name for p in (run.path / "adapter").iterdir()) == ["adapter_config.json",
                                                                       "adapter_model.safetensors"]
    config = json.loads((run.path / "adapter/adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 4, 32)
    assert sorted(config["target_modules"]) == ["o_proj", "q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == str(model)
    tensors, metadata = read_safetensors(run.path / "adapter/adapter_model.safetensors")
    assert metadata == {"format": "pt"}
    width = {"q_proj": 128, "v_proj": 64, "o_proj": 128}
    expected = {}
    for layer, (module, out) in itertools.product(range(2), width.items()):
        stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
        expected |= {f"{stem}.lora_A.weight": [4, 128], f"{stem}.lora_B.weight": [out, 4]}
    assert {name: shape for name, (_, shape, _) in tensors.items()} == expected
    assert all(any(data) for _, _, data in tensors.values())
    # goes on from where it was; rank and alpha come from the adapter
    again = train(tmp_path / "run", "--deterministic", "--adapter", run.path / "adapter", "--adapter-rank", 16)
    assert again.report()["results"]["valid_loss_first"] == run.report()["results"]["valid_loss_last"]
    assert [(t[0], t[1]) for t in read_safetensors(again.path / "adapter/adapter_model.safetensors")[0].values()] == \
        [(t[0], t[1]) for t in tensors.values()]


def test_model_is_a_hugging_face_folder_and_is_read_back(train, train_once, model, tmp_path):
    run = train_once("--deterministic", "--precision", "fp32", *FULL, "--strategy", "ddp")
    names = {p.name for p in (run.path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    before, _ = read_safetensors(model / "model.safetensors")
    after, metadata = read_safetensors(run.path / "model/model.safetensors")
    assert metadata == {"format": "pt"}
    assert {n: t[1] for n, t in after.items()} == {n: t[1] for n, t in before.items()}
    config = json.loads((run.path / "model/config.json").read_text())
    assert config["torch_dtype"] == "float32" and {t[0] for t in after.values()} == {"F32"}
    again = train(tmp_path / "run", "--deterministic", "--model", run.path / "model", "--steps", 1)
    assert again.report()["results"]["valid_loss_first"] == run.report()["results"]["valid_loss_last"]


def test_overwrite_deletes_the_run_before(train, train_once, tmp_path):
    shutil.copytree(train_once("--deterministic", "--precision", "fp32", *FULL, "--strategy", "ddp").path,
                    tmp_path / "run")
    (tmp_path / "run/notes.txt").write_text("mine")
    (tmp_path / "run/eval").mkdir()
    for name in ("profile.csv", "eval/eval.csv"):
        (tmp_path / "run" / name).write_text("of the run before\n")
    run = train(tmp_path / "run", "--overwrite", "--steps", 1)
    assert len(run.rows()) == 1 and run.checkpoints() == ["step-000001"]
    assert not (run.path / "model").exists() and (run.path / "adapter").exists()
    assert (run.path / "notes.txt").read_text() == "mine"
    assert not (run.path / "profile.csv").exists() and not (run.path / "eval").exists()


# --- loss scaling, early stop -----------------------------------------------------------------------------------------


def test_fp16_skips_overflowing_steps_and_goes_on(train_once):
    run = train_once(*LONG, *FP16, "--strategy", "ddp")
    rows = run.rows()
    skipped = [row["skipped"] == "1" for row in rows]
    count = sum(skipped)
    assert skipped[0] and skipped[1] and 2 <= count <= len(rows) / 2
    assert run.stderr.count("gradient overflow, update skipped") == count == run.report()["results"]["skipped_steps"]
    assert "step 1: gradient overflow, update skipped, loss scale 1.6e+07 -> 8e+06" in run.stderr
    scales = [float(row["loss_scale"]) for row in rows]
    for i, (before, after) in enumerate(zip(scales, scales[1:])):
        assert after == before / 2 if skipped[i] else after in (before, 2 * before)
    assert any(after == 2 * before for before, after in zip(scales, scales[1:]))  # three good steps in a row
    for row in rows:
        assert math.isfinite(float(row["loss"]))
        assert math.isfinite(float(row["grad_norm"])) == (row["skipped"] == "0")
    assert float(rows[-1]["valid_loss"]) < run.report()["results"]["valid_loss_first"]
    state = json.loads((run.path / "checkpoints/step-000012/state.json").read_text())["state"]
    assert state["updates"] == 12 - count and state["skipped"] == count


def test_fp16_with_a_usual_scale_and_bf16_skip_nothing(train_once, train, tmp_path):
    fp16 = train(tmp_path / "run", "--precision", "fp16")
    bf16 = train_once("--deterministic", "--precision", "bf16", "--adapter-rank", 4, "--strategy", "ddp")
    for run in (fp16, bf16):
        assert {row["skipped"] for row in run.rows()} == {"0"} and "skipped" not in run.stderr
    assert {row["loss_scale"] for row in bf16.rows()} == {""}
    assert close(fp16.losses(), bf16.losses(), 1e-2)


def test_early_stop(train, tmp_path):
    options = ("--lr", 0, "--steps", 50, "--validation.every=1", "--validation.patience=2")
    run = train(tmp_path / "run", *options)
    results = run.report()["results"]
    assert (results["steps"], results["planned_steps"], results["early_stopped"]) == (2, 50, True)
    assert "stopped early" in run.stderr and run.report()["finished"]
    assert "nothing left to do after step 2" in train(tmp_path / "run", *options, "--resume").stderr


def test_version():
    done = llmft("--version")
    assert done.returncode == 0 and re.fullmatch(r"llmft \d+\.\d+\.\d+( \([0-9a-f]+\))?\n", done.stdout)


def test_help_lists_every_option_with_examples():
    done = llmft("train", "--help")
    assert done.returncode == 0 and "mpirun -n 2 ./llmft train" in done.stdout
    for flag in ("--config", "--model", "--data", "--output", "--adapter-rank", "--precision", "--strategy", "--steps",
                 "--deterministic", "--resume", "--checkpoint.keep", "--train.warmup_ratio"):
        assert flag in done.stdout, flag
