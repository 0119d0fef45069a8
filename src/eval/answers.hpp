// Answers of the base model and with the adapter to the prompts of samples.
#pragma once

#include <string>
#include <vector>

#include "llmft/data/shard_set.hpp"
#include "llmft/eval/evaluation.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

struct Answered {
  uint64_t sample = 0;
  std::string prompt;
  std::string reference;
  std::string answers[2];  // base, adapted; without blanks at both ends, as the data's
  std::string finishes[2];
  int64_t tokens[2] = {0, 0};
};

std::vector<Answered> answer_samples(LoadedModel& model, const Tokenizer& tokenizer, const ShardSet& shards,
                                     const std::vector<uint64_t>& samples, const EvalOptions& options);

// Between ranks.
std::string to_text(const std::vector<Answered>& answers);
void append_text(const std::string& text, std::vector<Answered>& answers);

}  // namespace llmft
