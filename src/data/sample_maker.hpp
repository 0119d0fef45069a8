// One row to one sample, or the reason why not.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "llmft/data/chat_template.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/data/orca_reader.hpp"
#include "llmft/data/pipeline.hpp"

namespace llmft {

struct Sample {
  std::vector<TokenId> tokens;
  uint32_t loss_start = 0;
  bool truncated = false;
};

class SampleMaker {
 public:
  // duplicates: source rows whose text stood earlier, ascending.
  SampleMaker(const Tokenizer& tokenizer, const PreprocessOptions& options,
              std::span<const uint64_t> duplicates);

  // Fills sample, or gives the reason for the drop.
  std::optional<DropReason> make(const Row& row, uint64_t index, Sample& sample);
  // By the row's text alone, so that it stays on its side when rows are added or reordered.
  bool for_validation(const Row& row) const;
  const ChatTemplate& chat_template() const { return template_; }

 private:
  ChatTemplate template_;
  size_t max_length_;
  OnTooLong on_too_long_;
  double validation_;
  std::span<const uint64_t> duplicates_;
};

}  // namespace llmft
