// Finds names of tokens in text: the leftmost, and of those that start there the longest.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

class NameMatcher {
 public:
  NameMatcher() = default;
  explicit NameMatcher(std::map<std::string, TokenId, std::less<>> names);

  bool empty() const { return names_.empty(); }

  // Calls on_text(part) for each non-empty stretch without a name, and on_name(id) for each name, in order.
  void walk(std::string_view text, const std::function<void(std::string_view)>& on_text,
            const std::function<void(TokenId)>& on_name) const;

 private:
  std::map<std::string, TokenId, std::less<>> names_;
  std::vector<size_t> lengths_;  // distinct, longest first
  std::string first_bytes_;
};

}  // namespace llmft
