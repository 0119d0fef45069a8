#include "llmft/cli/preprocess.hpp"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>

#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/config/options.hpp"
#include "llmft/data/pipeline.hpp"
#include "llmft/data/verify.hpp"

namespace llmft {
namespace {

constexpr const char* kHelp =
    R"(usage: llmft preprocess --input PATH --tokenizer DIR_OR_FILE --output DIR [options]

Turns instruction data (columns system_prompt, question, response) into shards of tokens for 'llmft train'.
Every rank works; the files do not depend on how many there are. Run it again after an interruption and it
writes what is missing.

examples:
  llmft preprocess --config inputs/tiny/preprocess.yaml
  llmft preprocess --input OpenOrca --tokenizer Llama-3.2-1B --preview 3
  llmft preprocess --verify shards/openorca --input OpenOrca --tokenizer Llama-3.2-1B
  mpirun -n 8 llmft preprocess --input 'OpenOrca/*.parquet' --tokenizer Llama-3.2-1B \
      --output shards/openorca --max-length 2048 --validation 0.01
  srun llmft preprocess --input OpenOrca --tokenizer Llama-3.2-1B --output shards/openorca --on-too-long truncate

options:
)";

// What fails the same way on every rank is tried on rank 0 alone first, so that its error is said once.
void root_first(const Process& process, const std::function<void()>& action) {
  if (process.is_root()) action();
  process.barrier();
  if (!process.is_root()) action();
}

void need(const std::string& value, const char* flag, const char* what) {
  if (value.empty()) user_error("{}: is needed ({}); see 'llmft preprocess --help'", flag, what);
}

}  // namespace

int run_preprocess(const Process& process, std::span<const std::string> args) {
  PreprocessOptions options;
  OptionSet set;
  describe(set, options);
  root_first(process, [&] { set.parse(args); });
  if (set.help_requested()) {
    if (process.is_root()) fmt::print("{}{}", kHelp, set.help_text());
    return 0;
  }
  std::unique_ptr<Tokenizer> tokenizer;
  if (!options.verify.empty()) {
    root_first(process, [&] {
      if (!options.input.empty()) need(options.tokenizer, "--tokenizer", "to compare shards with --input");
      if (!options.tokenizer.empty()) tokenizer = load_tokenizer(options.tokenizer);
    });
    verify_shards(process, options.verify, options.input, tokenizer.get());
    return 0;
  }
  root_first(process, [&] {
    need(options.input, "--input", "a file, folder or pattern of Parquet or JSON lines");
    need(options.tokenizer, "--tokenizer", "the model's folder or its tokenizer file");
    if (options.min_length > options.max_length)
      user_error("{}: {} is more than the longest sample, --max-length {}; no sample could be kept",
                 set.origin("preprocess.min_length"), options.min_length, options.max_length);
    if (options.preview == 0) need(options.output, "--output", "the folder for the shards");
    tokenizer = load_tokenizer(options.tokenizer);
  });
  if (options.preview > 0) {
    bool colour = ::isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
    if (process.is_root())
      print_preview(*tokenizer, options, colour ? PreviewStyle::colour : PreviewStyle::brackets, stdout);
    process.barrier();
    return 0;
  }
  preprocess(process, *tokenizer, options);
  return 0;
}

}  // namespace llmft
