// What must hold for any bytes whatever: one check, for the test that mutates texts for a few seconds and for
// libFuzzer.
#pragma once

#include <cstdlib>

#include "llmft/tokenizer/loaders.hpp"
#include "llmft/tokenizer/simd.hpp"
#include "reference.hpp"
#include "support.hpp"

namespace llmft::test {

class FuzzTarget {
 public:
  FuzzTarget() : reference_(ranks()) {
    const std::string content = read_file(file());
    for (SimdTier tier : available_simd_tiers()) {
      ::setenv("LLMFT_SIMD", std::string(name_of(tier)).c_str(), 1);
      names_.push_back(std::string(name_of(tier)));
      roomy_.push_back(load_tiktoken(content, "fuzz"));
      tight_.push_back(load_tiktoken(content, "fuzz", size_t{1} << 19));  // starts over often
      splitters_.push_back(make_llama3_splitter(tier));
    }
    ::unsetenv("LLMFT_SIMD");
  }

  // "" or what is wrong. Ids of every tier, from a word table that is new to the text and one that has
  // seen it, are the reference's; they decode to the text; text can be cut where the splitter says.
  std::string check(std::string_view text) const {
    const std::vector<char> exact(text.begin(), text.end());  // a sanitizer sees reads past the end
    const std::string_view view(exact.data(), exact.size());
    const std::vector<TokenId> expected = reference_.encode(view);
    for (size_t t = 0; t < names_.size(); ++t) {
      for (const Tokenizer* tokenizer : {roomy_[t].get(), tight_[t].get(), roomy_[t].get()})
        if (encode(*tokenizer, view) != expected) return names_[t] + ": other ids";
      if (roomy_[t]->decode(expected) != text) return names_[t] + ": decoded to another text";
      const auto whole = pieces(*splitters_[t], view);
      for (size_t limit = text.size(); limit > 1;) {
        const size_t at = splitters_[t]->last_cut(view, 0, limit);
        if (at == 0) break;
        auto parts = pieces(*splitters_[t], view.substr(0, at));
        for (std::string& piece : pieces(*splitters_[t], view.substr(at))) parts.push_back(std::move(piece));
        if (parts != whole) return names_[t] + ": other pieces when cut at " + std::to_string(at);
        limit = text.size() > 300 ? at / 2 : at;
      }
    }
    return "";
  }

 private:
  static std::filesystem::path file() {
    return std::filesystem::path(LLMFT_SOURCE_DIR) / "tests/golden/tokenizer/tokenizer.model";
  }
  static Reference::Ranks ranks() {
    Reference::Ranks ranks;
    const auto tokenizer = load_tokenizer(file());
    for (TokenId id = 0; id + 256 < tokenizer->vocabulary_size(); ++id)
      ranks[tokenizer->decode({&id, 1})] = id;
    return ranks;
  }

  Reference reference_;
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<Tokenizer>> roomy_, tight_;
  std::vector<std::unique_ptr<Splitter>> splitters_;
};

// Half of all inputs name characters of kAlphabet, in runs; libFuzzer would be long in finding UTF-8 that
// has a meaning for the rule.
inline std::string text_of(std::string_view bytes) {
  if (bytes.empty() || bytes[0] % 2 == 0) return std::string(bytes.substr(bytes.empty() ? 0 : 1));
  std::string text;
  for (unsigned char c : bytes.substr(1)) {
    const size_t run = c >= 240 ? 61 : c >= 200 ? 3 : 1;
    for (size_t i = 0; i < run; ++i) text += kAlphabet[c % kAlphabet.size()];
  }
  return text;
}

}  // namespace llmft::test
