#include <cstdio>

#include "llmft/cli/commands.hpp"
#include "llmft/eval/evaluation.hpp"

namespace llmft {
namespace {

constexpr const char* kHelp =
    R"(llmft eval: how well a model, and the same model with an adapter, answer a validation set.

Perplexity over the supervised tokens; corpus BLEU (as sacrebleu: 13a) and ROUGE-1, -2 and -L (as rouge_score, without a
stemmer) of the answers to the first --samples prompts against the data's. With --adapter both are asked in the same
batches from one set of weights, and the table has 95 % bootstrap intervals, the difference and a paired test's p.
<output> gets eval.csv, samples.csv, answers.jsonl, answers.md (side by side) and run.json (docs/formats.md);
'python postprocess/eval_plot.py <output>' draws it. With --results the scores also go into the table of runs, as a row
"eval" of the run that made the adapter or the model.

examples:
  llmft eval --model inputs/tiny/model --data shards/tiny/valid --samples 50
  mpirun -n 2 ./llmft eval --model models/Llama-3.2-1B --adapter runs/orca/adapter --data shards/orca/valid
  srun ./llmft eval --model models/Llama-3.2-1B --adapter runs/orca/adapter --data shards/orca/valid --samples -1 --output runs/orca/eval \
      --results results/benchmarks.csv --run orca

options:
)";

}  // namespace

int run_eval(const Process& process, std::span<const std::string> args) {
  EvalOptions options;
  OptionSet set;
  describe(set, options);
  set.parse(args);
  if (set.help_requested()) {
    if (process.is_root()) fmt::print("{}{}", kHelp, set.help_text());
    return kExitOk;
  }
  run_evaluation(process, options, set.dump_yaml());
  return kExitOk;
}

}  // namespace llmft
