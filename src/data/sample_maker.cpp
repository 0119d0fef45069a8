#include "sample_maker.hpp"

#include <algorithm>

#include "llmft/base/rng.hpp"
#include "llmft/base/text.hpp"

namespace llmft {
namespace {

constexpr uint64_t kSplitStream = 0x76616c6964ULL;  // its own stream: independent of other uses of the hash

bool valid_utf8(std::string_view text) {
  return valid_utf8_prefix(text) == text.size();
}

}  // namespace

SampleMaker::SampleMaker(const Tokenizer& tokenizer, const PreprocessOptions& options,
                         std::span<const uint64_t> duplicates)
    : template_(options.chat_template, tokenizer),
      max_length_(static_cast<size_t>(options.max_length)),
      on_too_long_(options.on_too_long),
      validation_(options.validation),
      duplicates_(duplicates) {}

std::optional<DropReason> SampleMaker::make(const Row& row, uint64_t index, Sample& sample) {
  if (!valid_utf8(row.system_prompt) || !valid_utf8(row.question) || !valid_utf8(row.response))
    return DropReason::not_utf8;
  if (strip(row.question).empty() || strip(row.response).empty()) return DropReason::empty;
  if (std::binary_search(duplicates_.begin(), duplicates_.end(), index)) return DropReason::duplicate;
  sample.tokens.clear();
  sample.truncated = false;
  template_.encode({row.system_prompt, row.question, row.response}, sample.tokens, sample.loss_start);
  if (sample.tokens.size() <= max_length_) return std::nullopt;
  // Cut, a sample ends without the end-of-turn token: the model is not taught to stop there. One whose prompt
  // alone fills the length has nothing to learn from.
  if (on_too_long_ == OnTooLong::drop || sample.loss_start >= max_length_) return DropReason::too_long;
  sample.tokens.resize(max_length_);
  sample.truncated = true;
  return std::nullopt;
}

bool SampleMaker::for_validation(const Row& row) const {
  if (validation_ == 0) return false;
  // As the template has them: rows that differ in outer blanks alone give the same tokens.
  Row stripped{{}, strip(row.system_prompt), strip(row.question), strip(row.response)};
  return CounterRng(row_hash(stripped), kSplitStream).uniform(0) < validation_;
}

}  // namespace llmft
