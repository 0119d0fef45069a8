#include <cstdio>

#include "llmft/cli/commands.hpp"
#include "llmft/train/trainer.hpp"

namespace llmft {
namespace {

constexpr const char* kHelp = R"(llmft train: fine-tunes a Llama model on shards that 'llmft preprocess' made.

Without an adapter rank of 0 it trains LoRA adapters and writes them to <output>/adapter/ in PEFT's format; with
--adapter-rank 0 it trains all weights and writes <output>/model/, a Hugging Face folder. Tables, logs and checkpoints
lie in <output> (docs/formats.md). SIGTERM or SIGUSR1 writes a checkpoint and ends with exit code 0.

examples:
  llmft train --config inputs/tiny/train.yaml
  mpirun -n 2 ./llmft train --config inputs/tiny/train.yaml --output runs/lora --adapter-rank 8 --precision bf16
  srun ./llmft train --config inputs/llama32_1b.yaml --strategy fsdp --precision bf16 --resume
  llmft train --model models/Llama-3.2-1B --data shards/orca --output runs/orca --steps 1000 --train.lr=1e-4

options:
)";

}  // namespace

int run_train(const Process& process, std::span<const std::string> args) {
  TrainOptions options;
  OptionSet set;
  describe(set, options);
  set.parse(args);
  if (set.help_requested()) {
    if (process.is_root()) fmt::print("{}{}", kHelp, set.help_text());
    return kExitOk;
  }
  run_training(process, options, set.dump_yaml());
  return kExitOk;
}

}  // namespace llmft
