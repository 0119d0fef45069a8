// `llmft eval`: how well a base model, and the same model with an adapter, answer a validation set.
// Perplexity over the supervised tokens of all samples; answers to the prompts of some, compared with the
// data's by BLEU and ROUGE. Samples are dealt to ranks in turn; base and adapter are asked in the same
// batches, from one set of weights.
#pragma once

#include <cstdint>
#include <string>

#include "llmft/comm/process.hpp"
#include "llmft/config/options.hpp"
#include "llmft/generate/loaded_model.hpp"

namespace llmft {

struct EvalOptions {
  std::string model;
  std::string adapter;
  std::string data;
  std::string tokenizer;  // empty: the model's
  std::string output = "runs/eval";
  std::string results;  // a table of runs to add the scores to; empty: none
  std::string run;      // whose scores they are there
  bool overwrite = false;
  DeviceChoice device = DeviceChoice::automatic;
  std::string precision = "auto";
  int64_t threads = 0;
  int64_t samples = 200;
  int64_t perplexity_samples = 0;
  int64_t pack_tokens = 0;
  int64_t sequences = 0;
  int64_t max_tokens = 256;
  double temperature = 0;
  int64_t top_k = 0;
  double top_p = 1;
  int64_t seed = 0;
  int64_t resamples = 1000;
};
void describe(OptionSet& set, EvalOptions& options);

// "auto" and the names of precisions.
std::vector<std::string> precision_choices();
std::optional<Precision> precision_of(const std::string& name);
// This rank's part of the node's cores, GPU and so on.
ModelSource model_source(const Process& process, DeviceChoice device, const std::string& precision,
                         int64_t threads);

// Collective. Rank 0 prints the table and writes <output>/eval.csv, samples.csv, answers.jsonl, answers.md,
// run.json and config.yaml; with `results`, rows "eval" and, of the model under an adapter, "eval-base" go
// into that table. UserError: as LoadedModel's and ShardSet's; an output folder that has results already.
void run_evaluation(const Process& process, const EvalOptions& options, const std::string& config_yaml);

}  // namespace llmft
