"""`llmft export --merge`: values, layout, fidelity, bad input."""
import json
import re

import numpy as np
import pytest

import runs


@pytest.fixture(scope="session")
def adapter(train_once):
    return train_once("--steps", 12, "--adapter-rank", 8).path / "adapter"


def export(*args):
    return runs.llmft("export", "--merge", "--device", "cpu", *args)


def floats(tensor):
    dtype, shape, data = tensor
    if dtype == "F32":
        return np.frombuffer(data, np.float32).reshape(shape)
    assert dtype == "BF16"
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)


def rounded(x):
    """To bf16, nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16) & 0xFFFFFFFF).astype(np.uint32).view(np.float32).reshape(x.shape)


@pytest.mark.parametrize("dtype", ["model", "fp32"])
def test_values_and_layout(model, adapter, tmp_path, dtype):
    done = export("--model", model, "--adapter", adapter, "--output", tmp_path / "m", "--dtype", dtype)
    assert done.returncode == 0, done.stderr
    merged, metadata = runs.read_safetensors(tmp_path / "m/model.safetensors")
    base, _ = runs.read_safetensors(model / "model.safetensors")
    parts, _ = runs.read_safetensors(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    assert metadata["format"] == "pt"
    assert set(merged) == set(base)
    changed = 0
    for name, tensor in merged.items():
        wanted = floats(base[name]).astype(np.float64)
        stem = "base_model.model." + name.removesuffix("weight")
        if stem + "lora_A.weight" in parts:
            wanted = wanted + scale * floats(parts[stem + "lora_B.weight"]).astype(np.float64) @ floats(parts[stem + "lora_A.weight"])
            changed += 1
        got = floats(tensor)
        if dtype == "fp32":
            assert np.abs(got - wanted).max() < 1e-6
        else:  # one rounding; where the f32 sum lies on a border it may go either way
            one = rounded(wanted.astype(np.float32))
            assert (got != one).mean() < 1e-3
            assert np.abs(got - wanted).max() <= 2**-8 * np.abs(wanted).max()
    assert changed == len(parts) // 2 > 0
    source, written = (json.loads((folder / "config.json").read_text()) for folder in (model, tmp_path / "m"))
    assert written["torch_dtype"] == ("float32" if dtype == "fp32" else source["torch_dtype"])
    assert {k: v for k, v in written.items() if k != "torch_dtype"} == {k: v for k, v in source.items() if k != "torch_dtype"}
    assert (tmp_path / "m/tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    [kl, agreement, positions] = map(float, re.search(r"KL (\S+) nats a position, greedy agreement (\S+) % of (\d+)", done.stdout).groups())
    assert -1e-9 < kl < (1e-6 if dtype == "fp32" else 1e-2)
    assert agreement > (99 if dtype == "fp32" else 80)
    assert positions > 20


def test_merged_model_evaluates_as_base_and_adapter(model, adapter, shards, tmp_path):
    assert export("--model", model, "--adapter", adapter, "--output", tmp_path / "m", "--dtype", "fp32", "--samples", 0).returncode == 0
    common = ["eval", "--data", shards / "valid", "--device", "cpu", "--samples", 4, "--max-tokens", 8, "--eval.resamples=10"]
    for output, args in (("a", ["--model", model, "--adapter", adapter]), ("b", ["--model", tmp_path / "m"])):
        done = runs.llmft(*common, *args, "--output", tmp_path / output)
        assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / o / "run.json").read_text())["results"] for o in "ab"]
    assert results[1]["perplexity_base"] == pytest.approx(results[0]["perplexity_adapter"], rel=1e-5)


@pytest.mark.parametrize("args, words", [
    ([], ["--adapter"]),
    (["--adapter", "/no/such"], ["/no/such", "adapter_config.json"]),
    (["--adapter", "ADAPTER", "--output", "MODEL"], ["base model's folder"]),
    (["--adapter", "ADAPTER", "--output", "ADAPTER", "--overwrite"], ["adapter's folder"]),
    (["--adapter", "ADAPTER", "--data", "/no/such"], ["/no/such"]),
    (["--adapter", "ADAPTER", "--model", "/no/such"], ["/no/such"]),
    (["--adapter", "ADAPTER", "--dtype", "int8"], ["int8", "bf16"]),
])
def test_bad_input(model, adapter, tmp_path, args, words):
    args = [str(a).replace("ADAPTER", str(adapter)).replace("MODEL", str(model)) for a in args]
    done = export("--model", model, "--output", tmp_path / "m", *args)
    assert done.returncode == 2
    [line] = runs.error_lines(done)
    for word in words:
        assert word in line
    assert not (tmp_path / "m").exists()


def test_a_model_in_parts_is_replaced_whole(model, adapter, tmp_path):
    output = tmp_path / "m"
    output.mkdir()
    for name in ("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "notes.txt"):
        (output / name).write_text("{}")
    assert export("--model", model, "--adapter", adapter, "--output", output, "--overwrite", "--samples", 0).returncode == 0
    assert {p.name for p in output.glob("model*")} == {"model.safetensors"} and (output / "notes.txt").exists()


def test_merge_must_be_asked_for(model, adapter, tmp_path):
    done = runs.llmft("export", "--model", model, "--adapter", adapter, "--output", tmp_path / "m")
    assert done.returncode == 2 and "--merge" in runs.error_lines(done)[0]
