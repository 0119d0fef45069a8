// Text to ids and back. One interface for Llama 3's byte-level BPE (tiktoken file or tokenizer.json) and
// sentencepiece. Thread safety: encode and decode are const and may be called from several threads at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmft {

using TokenId = uint32_t;

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Appends the ids of text (valid UTF-8) to out, as ordinary text: special tokens' names in it are plain
  // characters (tiktoken's encode_ordinary). Adds no BOS.
  virtual void encode(std::string_view text, std::vector<TokenId>& out) const = 0;
  // As encode, but names of special tokens in text become their ids.
  virtual void encode_with_special(std::string_view text, std::vector<TokenId>& out) const = 0;
  // The bytes of ids; special tokens as their names. May end inside a UTF-8 character.
  virtual std::string decode(std::span<const TokenId> ids) const = 0;

  // Ids run from 0 to vocabulary_size() - 1, special tokens included.
  virtual size_t vocabulary_size() const = 0;
  // Name -> id, for example "<|eot_id|>".
  virtual const std::map<std::string, TokenId, std::less<>>& special_tokens() const = 0;
  std::optional<TokenId> special(std::string_view name) const;

  // "llama3-tiktoken", "hf-bpe", "sentencepiece".
  virtual std::string kind() const = 0;
  // Stable over machines: hash of the tokenizer's file (hash_file). Written into shards' manifest.
  const std::string& file_hash() const { return file_hash_; }

 protected:
  std::string file_hash_;

  friend std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path&);
};

// path: a folder (tokenizer.json, then tokenizer.model, then original/tokenizer.model is looked for) or one
// of these files; a tokenizer.model is told apart by its content (tiktoken's base64 lines, or a sentencepiece
// protobuf). Throws UserError when nothing fits, saying what was looked for.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace llmft
