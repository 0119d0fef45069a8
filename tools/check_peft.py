#!/usr/bin/env python3
"""Loads an adapter that llmft wrote with the real PEFT, and compares losses and logits. Run it where torch is.

    python tools/check_peft.py --model inputs/tiny/model --adapter runs/tiny/adapter \\
        --data shards/tiny --expect-loss 0.7312 --tolerance 1e-4

Checks, each an error with exit status 1: the base loads with no tensor missing or left over; every tensor of the
adapter file lands in the model unchanged, and none that the model expects is missing; every lora_B is non-zero (one
that trained is); the loss, as a mean over all supervised tokens, lies within --tolerance (relative) of --expect-loss;
the logits lie within --tolerance of --expect-logits, relative to the largest of them.

The samples come from llmft's shards (--data: a folder of shard-*.h5) or a golden's batch (--batch: its batch.json).
Everything is computed in fp32, one sample at a time, with positions from 0.

Needs torch, transformers, peft, safetensors and, for --data, h5py: tools/requirements-golden.txt.
"""
import argparse
import json
import os
import pathlib
import sys


class CheckFailed(Exception):
    pass


def check(condition, message):
    if not condition:
        raise CheckFailed(message)


def samples_of_shards(folder):
    import h5py
    shards = sorted(folder.glob("shard-*.h5"))
    check(shards, f"{folder} holds no shard-*.h5")
    for shard in shards:
        with h5py.File(shard, "r") as f:
            tokens, offsets, starts = f["tokens"][:], f["offsets"][:], f["loss_start"][:]
        for begin, end, start in zip(offsets[:-1], offsets[1:], starts):
            yield [int(t) for t in tokens[int(begin):int(end)]], int(start)


def samples_of_batch(path):
    batch = json.loads(path.read_text())
    for begin, end, start in zip(batch["offsets"][:-1], batch["offsets"][1:], batch["loss_start"]):
        yield batch["tokens"][begin:end], start


def load_base(folder):
    import torch
    from transformers import AutoModelForCausalLM
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                       output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        check(not info[problem], f"{folder}: {problem} {sorted(map(str, info[problem]))}")
    return model.eval()


def load_adapter(model, folder):
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    stored = load_file(str(folder / "adapter_model.safetensors"))
    model = PeftModel.from_pretrained(model, str(folder)).eval()
    loaded = get_peft_model_state_dict(model)
    check(stored.keys() == loaded.keys(), f"{folder}: in the file alone {sorted(stored.keys() - loaded.keys())}, "
          f"in the model alone {sorted(loaded.keys() - stored.keys())}")
    for name, value in stored.items():
        check(torch.equal(value.float(), loaded[name].float()), f"{name}: not what the file holds after loading")
        check(bool(torch.isfinite(value.float()).all()), f"{name}: not finite")
    zero = [name for name in stored if "lora_B" in name and not stored[name].any()]
    check(not zero, f"never trained, all zero: {zero}")
    config = model.peft_config["default"]
    print(f"adapter: {len(stored)} tensors, {sum(v.numel() for v in stored.values()):,} parameters, r={config.r}, "
          f"alpha={config.lora_alpha}, rsLoRA {config.use_rslora}, targets {sorted(config.target_modules)}")
    return model


def run(args):
    import torch
    model = load_base(args.model)
    if args.adapter:
        model = load_adapter(model, args.adapter)
    if not args.data and not args.batch:
        check(args.expect_loss is None and args.expect_logits is None, "no samples: give --data or --batch")
        return

    total, count, number, all_logits = 0.0, 0, 0, []
    with torch.no_grad():
        for tokens, start in samples_of_shards(args.data) if args.data else samples_of_batch(args.batch):
            if args.limit and number == args.limit:
                break
            ids = torch.tensor([tokens])
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
            # Summed in double: over thousands of samples fp32 would lose digits that the comparison is about.
            total += torch.nn.functional.cross_entropy(logits[start - 1:-1], ids[0, start:], reduction="none") \
                .double().sum().item()
            count += len(tokens) - start
            number += 1
            if args.expect_logits:
                all_logits.append(logits)
    check(count > 0, "no supervised token in the samples")
    loss = total / count
    print(f"loss {loss:.9g} over {count:,} supervised tokens of {number:,} samples")

    if args.expect_loss is not None:
        error = abs(loss - args.expect_loss) / max(abs(loss), 1e-12)
        print(f"expected {args.expect_loss:.9g}: relative difference {error:.3g}")
        check(error <= args.tolerance, f"loss {loss:.9g} is not {args.expect_loss:.9g} within {args.tolerance:g}")
    if args.expect_logits:
        from safetensors.torch import load_file
        expected = load_file(str(args.expect_logits))["logits"].float()
        actual = torch.cat(all_logits)
        check(actual.shape == expected.shape, f"logits {tuple(actual.shape)}, expected {tuple(expected.shape)}")
        error = ((actual - expected).abs().max() / actual.abs().max()).item()
        print(f"logits: largest difference {error:.3g} of the largest logit")
        check(error <= args.tolerance, f"logits differ by {error:.3g} of the largest, more than {args.tolerance:g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True, help="folder of the base model")
    parser.add_argument("--adapter", type=pathlib.Path, help="adapter folder (without: the base alone)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=pathlib.Path, help="folder of llmft shards")
    source.add_argument("--batch", type=pathlib.Path, help="a golden's batch.json")
    parser.add_argument("--limit", type=int, default=0, help="use the first N samples only")
    parser.add_argument("--expect-loss", type=float)
    parser.add_argument("--expect-logits", type=pathlib.Path, help="safetensors file with `logits` (T, V), as packed")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative (default 1e-4)")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        run(args)
    except CheckFailed as error:
        print(f"check_peft: {error}", file=sys.stderr)
        return 1
    print("check_peft: all well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
