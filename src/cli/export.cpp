#include <cstdio>

#include "llmft/cli/commands.hpp"
#include "llmft/eval/merge.hpp"

namespace llmft {
namespace {

constexpr const char* kHelp = R"(llmft export: a model without its adapter beside it.

--merge adds the adapter into the base model's weights (in fp32, rounded once) and writes a Hugging Face folder that
transformers and every other program load. A line then says how far the merged model is from base + adapter on sample
prompts: KL divergence of the next token's distribution, and how often the likeliest token is the same.

examples:
  llmft export --merge --model models/Llama-3.2-1B --adapter runs/orca/adapter --output models/orca-1b
  llmft export --merge --model inputs/tiny/model --adapter runs/demo/lora-bf16/adapter --output models/tiny-merged --data shards/tiny/valid
  llmft export --merge --model models/Llama-3.2-1B --adapter runs/orca/adapter --output models/orca-1b-fp32 --dtype fp32

options:
)";

}  // namespace

int run_export(std::span<const std::string> args) {
  ExportOptions options;
  OptionSet set;
  describe(set, options);
  set.parse(args);
  if (set.help_requested()) {
    fmt::print("{}{}", kHelp, set.help_text());
    return kExitOk;
  }
  run_merge(options);
  return kExitOk;
}

}  // namespace llmft
