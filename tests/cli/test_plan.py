"""`llmft plan` and the refusal of `llmft train`: what is planned is what a run then holds."""
import csv
import io
import json
import shutil
import time

import pytest

from runs import TINY, error_lines, llmft

LLAMA_1B = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 128256,
            "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "tie_word_embeddings": True, "max_position_embeddings": 131072}


@pytest.fixture(scope="module")
def llama_1b(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama") / "1B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_1B))
    return folder


def plan(*args):
    done = llmft("plan", "--format", "csv", *args)
    assert done.returncode == 0, done.stderr
    return {row["part"]: int(row["bytes"]) for row in csv.DictReader(io.StringIO(done.stdout))}


# The CPU's ops have scratch of their own, which is not planned.
@pytest.mark.parametrize("ranks, strategy", [(1, "ddp"), (2, "ddp"), (2, "fsdp")])
@pytest.mark.parametrize("extra", [(), ("--adapter-rank", "0"), ("--deterministic", "--batch-packs", "8"),
                                   ("--precision", "bf16", "--adapter-rank", "0")])
def test_a_run_holds_what_was_planned(shards, tmp_path, ranks, strategy, extra):
    options = ["--model", TINY, "--device", "cpu", "--precision", "fp32", "--strategy", strategy, "--pack-tokens",
               "512", "--batch-packs", "4", *extra]
    planned = plan(*options, "--gpus", ranks)
    done = llmft("train", *options, "--data", shards, "--output", tmp_path / "run", "--steps", "3", "--results", "", "--measure-only",
                 ranks=ranks)
    assert done.returncode == 0, done.stderr
    held = {row["part"]: int(row["bytes"]) for row in csv.DictReader((tmp_path / "run/memory.csv").open())
            if row["rank"] == "0"}
    for part in ["weights", "adapters", "gradients", "optimizer", "activations", "logits", "gathered"]:
        assert planned[part] == held[part], part
    if "bf16" not in extra:  # whose conversions take scratch on the CPU
        assert planned["peak"] == pytest.approx(held["peak"], rel=0.05)


def test_memory_of_the_1b_model(llama_1b):
    lora = plan("--model", llama_1b)
    assert 2.2 < lora["weights"] / 2**30 < 2.5 and lora["peak"] / 2**30 < 10.5
    full = plan("--model", llama_1b, "--adapter-rank", "0")
    # bf16 weights with f32 masters, f32 gradients, two f32 moments
    parameters = 1235814400
    assert full["weights"] == pytest.approx(6 * parameters, rel=1e-3)
    assert full["gradients"] == pytest.approx(4 * parameters, rel=1e-3)
    assert full["optimizer"] == pytest.approx(8 * parameters, rel=1e-3)
    fsdp = plan("--model", llama_1b, "--adapter-rank", "0", "--strategy", "fsdp", "--gpus", "4")
    assert fsdp["optimizer"] == pytest.approx(full["optimizer"] / 4, rel=0.01) and fsdp["gathered"] > 0
    assert plan("--model", llama_1b, "--precision", "tf32")["activations"] == pytest.approx(
        2 * lora["activations"], rel=0.01)


@pytest.mark.parametrize("extra", [(), ("--adapter-rank", "0"), ("--precision", "fp32")])
def test_the_largest_micro_batch_is_the_largest(llama_1b, extra):
    base = ["--model", llama_1b, "--memory", "40GiB", *extra]
    largest = plan(*base)["largest_pack_tokens"]
    assert largest > 0
    for tokens, fits in [(largest, True), (largest + 256, False)]:
        planned = plan(*base, "--pack-tokens", tokens)
        assert (planned["peak"] + planned["outside"] <= planned["device"]) == fits


def test_nothing_fits(llama_1b):
    done = llmft("plan", "--model", llama_1b, "--memory", "2GiB")
    assert done.returncode == 0 and "no --pack-tokens fits" in done.stdout


@pytest.mark.parametrize("args, says", [
    (("--memory", "lots"), "'lots' is not an amount of memory"),
    (("--memory", "-3GiB"), "not an amount of memory"),
    (("--gpus", "3"), "do not divide among 3 ranks"),
    (("--gpus", "2", "--strategy", "none"), "--strategy none"),
    (("--gpu", "2"), "--gpus"),
])
def test_bad_input(llama_1b, args, says):
    done = llmft("plan", "--model", llama_1b, *args)
    assert done.returncode == 2 and len(error_lines(done)) == 1 and says in done.stderr


def test_plan_needs_a_model():
    done = llmft("plan")
    assert done.returncode == 2 and "--model" in done.stderr


def test_train_refuses_at_once_what_does_not_fit(shards, tmp_path):
    model = tmp_path / "model"  # without weights: they must not be looked for
    model.mkdir()
    shutil.copy(TINY / "config.json", model)
    started = time.monotonic()
    done = llmft("train", "--model", model, "--data", shards, "--output", tmp_path / "run", "--device", "cpu",
                 "--pack-tokens", str(1 << 24))
    assert time.monotonic() - started < 30  # 1 s on an idle machine; sizes tried by computing them would take far longer
    lines = error_lines(done)
    assert done.returncode == 2 and len(lines) == 1
    assert "train.pack_tokens" in lines[0] and "--pack-tokens " in lines[0] and "the largest that fits" in lines[0]
    assert not (tmp_path / "run").exists()
