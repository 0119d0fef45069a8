#include "sample_maker.hpp"

#include <algorithm>

#include "llmft/base/rng.hpp"
#include "utf8.hpp"

namespace llmft {
namespace {

constexpr uint64_t kSplitStream = 0x76616c6964ULL;  // its own stream: independent of other uses of the hash

}  // namespace

SampleMaker::SampleMaker(const Tokenizer& tokenizer, const PreprocessOptions& options)
    : template_(options.chat_template, tokenizer),
      max_length_(static_cast<size_t>(options.max_length)),
      on_too_long_(options.on_too_long),
      min_length_(static_cast<size_t>(options.min_length)),
      validation_(options.validation) {}

std::optional<DropReason> SampleMaker::make(const Row& row, std::vector<TokenId>& tokens, Sample& sample) {
  if (!valid_utf8(row.system_prompt) || !valid_utf8(row.question) || !valid_utf8(row.response))
    return DropReason::not_utf8;
  if (strip(row.question).empty() || strip(row.response).empty()) return DropReason::empty;
  size_t begin = tokens.size();
  template_.encode({row.system_prompt, row.question, row.response}, tokens, sample.loss_start);
  sample.truncated = tokens.size() - begin > max_length_;
  sample.length = static_cast<uint32_t>(std::min(tokens.size() - begin, max_length_));
  auto judged_by_length = [&]() -> std::optional<DropReason> {
    if (sample.length >= min_length_) return std::nullopt;
    tokens.resize(begin);
    return DropReason::too_short;
  };
  if (!sample.truncated) return judged_by_length();
  // Cut, a sample ends without the end-of-turn token: the model is not taught to stop there. One whose prompt
  // alone fills the length has nothing to learn from.
  bool drop = on_too_long_ == OnTooLong::drop || sample.loss_start >= max_length_;
  tokens.resize(drop ? begin : begin + max_length_);
  if (drop) return DropReason::too_long;
  return judged_by_length();
}

bool SampleMaker::for_validation(const Row& row) const {
  if (validation_ == 0) return false;
  // As the template has them: rows that differ in outer blanks alone give the same tokens.
  Row stripped{{}, strip(row.system_prompt), strip(row.question), strip(row.response)};
  return CounterRng(row_hash(stripped), kSplitStream).uniform(0) < validation_;
}

}  // namespace llmft
