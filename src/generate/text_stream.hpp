// One answer's text as it grows: tokens in, text out that will not be taken back. Bytes wait until they are
// whole UTF-8 characters (what never becomes one is U+FFFD), and text that might be the start of a stop
// string waits until it is known not to be. Special tokens have no text.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

class TextStream {
 public:
  // tokenizer must outlive this. Empty stop strings are ignored.
  TextStream(const Tokenizer& tokenizer, std::span<const std::string> stops);

  // The text that is now certain. After a stop string was met: empty.
  std::string push(TokenId token);
  // What was held back, at the answer's end.
  std::string finish();
  bool stopped() const { return stopped_; }
  bool has_stops() const { return !stops_.empty(); }

 private:
  std::string bytes_of(TokenId token);
  std::string certain();

  const Tokenizer* tokenizer_;
  bool by_token_;  // a token's bytes do not depend on its neighbours
  std::vector<std::string> stops_;
  std::vector<TokenId> special_;  // sorted
  std::vector<TokenId> window_;
  std::string bytes_;  // not yet whole characters
  std::string held_;   // may be the start of a stop string
  bool stopped_ = false;
};

}  // namespace llmft
