// A tokenizer that can measure itself. Reading the clock costs as much as a short word, so it measures only
// while asked to.
#pragma once

#include "llmft/base/clock.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

class TimedTokenizer : public Tokenizer {
 public:
  explicit TimedTokenizer(const Tokenizer& inner) : inner_(inner) { file_hash_ = inner.file_hash(); }

  void encode(std::string_view text, std::vector<TokenId>& out) const override {
    if (!measuring) return inner_.encode(text, out);
    Stopwatch watch;
    inner_.encode(text, out);
    seconds += watch.seconds();
  }
  void encode_with_special(std::string_view text, std::vector<TokenId>& out) const override {
    inner_.encode_with_special(text, out);
  }
  std::string decode(std::span<const TokenId> ids) const override { return inner_.decode(ids); }
  size_t vocabulary_size() const override { return inner_.vocabulary_size(); }
  const std::map<std::string, TokenId, std::less<>>& special_tokens() const override {
    return inner_.special_tokens();
  }
  std::string kind() const override { return inner_.kind(); }

  // Of one thread.
  mutable bool measuring = false;
  mutable double seconds = 0;

 private:
  const Tokenizer& inner_;
};

}  // namespace llmft
