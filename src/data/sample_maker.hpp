// One row to one sample, or the reason why not.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "llmft/data/chat_template.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/orca_reader.hpp"
#include "llmft/data/pipeline.hpp"

namespace llmft {

struct Sample {
  uint32_t length = 0;
  uint32_t loss_start = 0;
  bool truncated = false;
};

class SampleMaker {
 public:
  SampleMaker(const Tokenizer& tokenizer, const PreprocessOptions& options);

  // Appends the sample's tokens, or gives the reason for the drop; that it is a duplicate is not seen here.
  std::optional<DropReason> make(const Row& row, std::vector<TokenId>& tokens, Sample& sample);
  // By the row's text alone, so that it stays on its side when rows are added or reordered.
  bool for_validation(const Row& row) const;
  const ChatTemplate& chat_template() const { return template_; }

 private:
  ChatTemplate template_;
  size_t max_length_;
  OnTooLong on_too_long_;
  size_t min_length_;
  double validation_;
};

}  // namespace llmft
