// A tokenizer for tests of the data layer: one token a byte, special tokens after the bytes.
#pragma once

#include <string>

#include "llmft/tokenizer/tokenizer.hpp"

class ByteTokenizer : public llmft::Tokenizer {
 public:
  enum class Specials { llama3, plain, none };
  explicit ByteTokenizer(Specials specials = Specials::llama3, std::string hash = "xxh3-128:fake") {
    std::vector<std::string> names;
    if (specials == Specials::llama3)
      names = {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
               "<|eot_id|>"};
    if (specials == Specials::plain) names = {"<s>", "</s>"};
    for (const std::string& name : names)
      specials_.emplace(name, static_cast<llmft::TokenId>(256 + specials_.size()));
    file_hash_ = std::move(hash);
  }

  void encode(std::string_view text, std::vector<llmft::TokenId>& out) const override {
    for (char c : text) out.push_back(static_cast<unsigned char>(c));
  }
  void encode_with_special(std::string_view text, std::vector<llmft::TokenId>& out) const override {
    while (!text.empty()) {
      bool found = false;
      for (auto& [name, id] : specials_) {
        if (!text.starts_with(name)) continue;
        out.push_back(id);
        text.remove_prefix(name.size());
        found = true;
        break;
      }
      if (found) continue;
      encode(text.substr(0, 1), out);
      text.remove_prefix(1);
    }
  }
  std::string decode(std::span<const llmft::TokenId> ids) const override {
    std::string text;
    for (llmft::TokenId id : ids) {
      if (id < 256) {
        text += static_cast<char>(id);
        continue;
      }
      for (auto& [name, special_id] : specials_)
        if (special_id == id) text += name;
    }
    return text;
  }
  size_t vocabulary_size() const override { return 256 + specials_.size(); }
  const std::map<std::string, llmft::TokenId, std::less<>>& special_tokens() const override {
    return specials_;
  }
  std::string kind() const override { return "bytes"; }

 private:
  std::map<std::string, llmft::TokenId, std::less<>> specials_;
};
