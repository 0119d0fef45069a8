"""Steps that must not happen, in the order of work of a GPU: the host begins a step before it looks at the one before.
An overflow in fp16 is skipped; a loss, a gradient or a weight that is not finite ends the run and is named."""
import json
import math
import struct

import pytest
import runs
from runs import Run, contents, error_lines, llmft, read_safetensors, write_safetensors

STEPS = ("--deterministic", "--adapter-rank", 0, "--train.schedule=constant", "--checkpoint-every", 1,
         "--checkpoint.keep=9")


@pytest.fixture(params=[0, 1], ids=["in step", "ahead"])
def ahead(request, monkeypatch):
    monkeypatch.setitem(runs.ENV, "LLMFT_TEST_STEPS_AHEAD", str(request.param))


@pytest.fixture
def always_ahead(monkeypatch):
    monkeypatch.setitem(runs.ENV, "LLMFT_TEST_STEPS_AHEAD", "1")


def state(run, step):
    """The tensors of a checkpoint, name -> bytes."""
    [path] = sorted((run.path / f"checkpoints/step-{step:06}").glob("state-*.safetensors"))
    return {name: data for name, (_, _, data) in read_safetensors(path)[0].items()}


def all_finite(folder):
    for path in folder.rglob("*.safetensors"):
        for name, (dtype, _, data) in read_safetensors(path)[0].items():
            if dtype == "F32" and not all(math.isfinite(x) for x in struct.unpack(f"<{len(data) // 4}f", data)):
                return False
    return True


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_host_ahead_sees_the_same_run(train, tmp_path, monkeypatch, ranks):
    """Losses, norms, loss scales and skipped steps are told of the steps they belong to."""
    options = ("--precision", "fp16", "--adapter-rank", 0, "--train.loss_scale=16e6", "--train.loss_scale_interval=3",
               "--steps", 9, "--checkpoint-every", 4, "--validation.every=3")
    made = []
    for steps in "01":
        monkeypatch.setitem(runs.ENV, "LLMFT_TEST_STEPS_AHEAD", steps)
        made.append(train(tmp_path / steps, *options, ranks=ranks))
    in_step, ahead = made
    assert ahead.numbers() == in_step.numbers() and len(ahead.rows()) == 9
    assert {row["skipped"] for row in ahead.rows()} == {"0", "1"}
    assert [line for line in ahead.stderr.splitlines() if "overflow" in line] == \
        [line for line in in_step.stderr.splitlines() if "overflow" in line]
    assert ahead.product() == in_step.product()
    assert ahead.checkpoints() == in_step.checkpoints() == ["step-000004", "step-000008", "step-000009"]


def test_an_overflow_changes_nothing_but_the_scale(train, tmp_path, always_ahead):
    """16e6 is too much for this model, and so is half of it."""
    run = train(tmp_path / "run", *STEPS, "--precision", "fp16", "--train.loss_scale=16e6", "--steps", 6)
    skips = [row["skipped"] for row in run.rows()].index("0")
    assert skips >= 2
    assert [float(row["loss_scale"]) for row in run.rows()][:skips + 1] == [16e6 / 2**i for i in range(skips + 1)]
    assert "step 2: gradient overflow, update skipped, loss scale 8e+06 -> 4e+06" in run.stderr
    before, still, after = (state(run, step) for step in (1, skips, skips + 1))
    assert before == still and set(after) == set(still)
    changed = [any(data) for name, data in still.items() if after[name] != data]
    assert 0 < sum(changed) <= changed.count(False) / 2  # a good step changes masters and moments; these were zero
    states = [json.loads((run.path / f"checkpoints/step-{step:06}/state.json").read_text())["state"]
              for step in (1, skips, skips + 1)]
    assert [s["updates"] for s in states] == [0, 0, 1] and [s["skipped"] for s in states] == [1, skips, skips]


def with_a_bad_token(model, shards, folder):
    """The model with a NaN in the embedding of a token that one sample alone has; its head is whole. -> that row"""
    import h5py
    import numpy as np
    counts, where = np.zeros(2048, int), {}
    for path in sorted(shards.glob("shard-*.h5")):
        with h5py.File(path) as shard:
            tokens, offsets = shard["tokens"][:], shard["offsets"][:]
            counts += np.bincount(tokens, minlength=2048)
            for sample, row in enumerate(shard["row"][:]):
                where |= {int(t): int(row) for t in tokens[offsets[sample]:offsets[sample + 1]]}
    token = int(np.flatnonzero(counts == 1)[0])
    folder.mkdir()
    for path in model.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    tensors, _ = read_safetensors(model / "model.safetensors")
    dtype, shape, data = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = (dtype, shape, data)
    at = token * 2 * shape[1]
    tensors["model.embed_tokens.weight"] = (dtype, shape, data[:at] + b"\xc0\x7f" + data[at + 2:])
    write_safetensors(folder / "model.safetensors", tensors)
    return where[token]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_loss_that_is_nan_is_named(train_args, model, shards, tmp_path, ahead, ranks):
    row = with_a_bad_token(model, shards, tmp_path / "m")
    done = llmft(*train_args, *STEPS, "--adapter-rank", 4, "--model", tmp_path / "m", "--output", tmp_path / "run",
                 "--lr", "1e-4", "--steps", 40, ranks=ranks, timeout=60)
    run = Run(tmp_path / "run")
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    step = len(run.rows()) + 1
    assert step >= 2  # or nothing was ahead
    assert f"step {step}: the loss is nan (rank " in error and "lower train.lr" in error
    rank, rows = error.split("(rank ")[1].split(")")[0].split(", source rows ")
    assert 0 <= int(rank) < ranks and str(row) in rows.split(", ")
    assert f"last checkpoint: step {step - 1} in {run.path}/checkpoints" in error
    assert run.checkpoints()[-1] == f"step-{step - 1:06}" and all_finite(run.path)
    assert not run.report()["finished"] and not (run.path / "adapter").exists()


@pytest.mark.parametrize("ranks, strategy", [(1, "none"), (2, "fsdp")])
def test_weights_that_are_not_finite_are_not_kept(train_args, tmp_path, ahead, ranks, strategy):
    """Step 1 has the rate 0; step 2 is the first that moves weights, far beyond what a float can hold."""
    done = llmft(*train_args, *STEPS, "--lr", "1e39", "--strategy", strategy, "--steps", 6, "--output",
                 tmp_path / "run", ranks=ranks, timeout=60)
    run = Run(tmp_path / "run")
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert "step 2: its update made weights that are not finite" in error and "lower train.lr" in error
    assert f"last checkpoint: step 1 in {run.path}/checkpoints" in error
    assert run.checkpoints() == ["step-000001"] and all_finite(run.path)
    before = contents(run.path / "checkpoints")
    again = llmft(*train_args, *STEPS, "--lr", "1e39", "--strategy", strategy, "--steps", 6, "--output", run.path,
                  "--resume", ranks=ranks, timeout=60)
    assert again.returncode == 2 and "resuming after step 1" in again.stderr
    assert contents(run.path / "checkpoints") == before


def test_no_scale_is_low_enough(train_args, model, tmp_path, always_ahead):
    """A gradient that overflows whatever the scale ends the run once the scale is 1, at the right step."""
    done = llmft(*train_args, *STEPS, "--precision", "fp16", "--train.loss_scale=4", "--lr", "1e30", "--steps", 40,
                 "--train.clip=0", "--output", tmp_path / "run", timeout=60)
    run = Run(tmp_path / "run")
    assert done.returncode == 2, done.stderr
    [error] = error_lines(done)
    assert f"step {len(run.rows()) + 1}: " in error and "last checkpoint: step " in error
