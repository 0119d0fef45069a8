#include "llmft/cli/commands.hpp"

#include "llmft/base/error.hpp"
#include "llmft/cli/chat.hpp"
#include "llmft/cli/preprocess.hpp"
#include "llmft/cli/serve.hpp"
#include "llmft/cli/tokenize.hpp"

namespace llmft {
namespace {

template <int (*Run)(const Process&, std::span<const std::string>)>
int with_process(const Process* process, std::span<const std::string> args) {
  return Run(*process, args);
}

int plan(const Process*, std::span<const std::string> args) {
  return run_plan(args);
}

int tokenize(const Process*, std::span<const std::string> args) {
  return run_tokenize(args);
}

int export_model(const Process*, std::span<const std::string> args) {
  return run_export(args);
}

int serve(const Process*, std::span<const std::string> args) {
  return run_serve(args);
}

int chat(const Process*, std::span<const std::string> args) {
  return run_chat(args);
}

constexpr Command kCommands[] = {
    {"preprocess", "tokenize OpenOrca Parquet or JSONL into HDF5 shards, all ranks together", true,
     with_process<run_preprocess>},
    {"train", "fine-tune a Llama model, LoRA or full, as DDP or FSDP", true, with_process<run_train>},
    {"eval", "perplexity, BLEU and ROUGE of a model, and of it with an adapter", true,
     with_process<run_eval>},
    {"export", "merge an adapter into its model", false, export_model},
    {"plan", "memory of a training run by part, and the largest micro-batch that fits", false, plan},
    {"serve", "chat page and OpenAI-compatible API on port 7860", false, serve},
    {"chat", "talk to a model in the terminal", false, chat},
    {"tokenize", "text to ids and back on stdin and stdout", false, tokenize},
    {"info", "what this build has and every rank sees", true, with_process<run_info>},
};

}  // namespace

std::span<const Command> commands() {
  return kCommands;
}

std::string program_help() {
  std::string text =
      "llmft fine-tunes Llama models on instruction data, on one machine or a SLURM cluster.\n\n"
      "usage: llmft COMMAND [options]          one rank\n"
      "       mpirun -n 4 ./llmft COMMAND ...  several, on one machine\n"
      "       srun ./llmft COMMAND ...         in a SLURM job\n\ncommands:\n";
  for (const Command& command : kCommands)
    text += fmt::format("  {:<11} {}\n", command.name, command.summary);
  text +=
      "\n'llmft COMMAND --help' lists a command's options, with examples.\n"
      "'llmft --version' names the build.\n\n"
      "examples:\n"
      "  llmft preprocess --input 'data/*.parquet' --tokenizer models/Llama-3.2-1B --output shards/orca "
      "--validation 0.01\n"
      "  llmft train --config inputs/llama32_1b.yaml --precision bf16 --strategy ddp\n"
      "  llmft serve --model models/Llama-3.2-1B-Instruct --adapter runs/x/adapter\n";
  return text;
}

}  // namespace llmft
