#include "llmft/tokenizer/name_matcher.hpp"

#include <algorithm>
#include <set>

namespace llmft {

NameMatcher::NameMatcher(std::map<std::string, TokenId, std::less<>> names) : names_(std::move(names)) {
  names_.erase("");
  std::set<size_t, std::greater<>> lengths;
  std::set<char> first_bytes;
  for (const auto& [name, id] : names_) lengths.insert(name.size()), first_bytes.insert(name[0]);
  lengths_.assign(lengths.begin(), lengths.end());
  first_bytes_.assign(first_bytes.begin(), first_bytes.end());
}

void NameMatcher::walk(std::string_view text, const std::function<void(std::string_view)>& on_text,
                       const std::function<void(TokenId)>& on_name) const {
  size_t done = 0;
  size_t at = 0;
  while (!names_.empty() && (at = text.find_first_of(first_bytes_, at)) != std::string_view::npos) {
    size_t matched = 0;
    for (size_t length : lengths_) {
      auto name = length <= text.size() - at ? names_.find(text.substr(at, length)) : names_.end();
      if (name == names_.end()) continue;
      if (at > done) on_text(text.substr(done, at - done));
      on_name(name->second);
      matched = length;
      break;
    }
    at += matched == 0 ? 1 : matched;
    if (matched != 0) done = at;
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace llmft
