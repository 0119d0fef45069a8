// Byte-level BPE: splitter -> word table -> merges for words not in the table.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/tokenizer/merges.hpp"
#include "llmft/tokenizer/name_matcher.hpp"
#include "llmft/tokenizer/simd.hpp"
#include "llmft/tokenizer/splitter.hpp"
#include "llmft/tokenizer/tokenizer.hpp"
#include "llmft/tokenizer/word_table.hpp"

namespace llmft {

struct WordKernels;

// What a piece that is itself in the vocabulary becomes. Some entries of Llama 3's vocabulary cannot be
// reached by merging: they are emitted only for whole pieces, never inside one.
enum class WholePiece { is_one_token, is_merged };

// What a loader reads from a file.
struct BpeModel {
  std::string kind;  // Tokenizer::kind()
  // Bytes of each id that text can become; empty: none. Every single byte must be among them.
  std::vector<std::string> vocabulary;
  std::vector<Merge> merges;
  std::vector<uint32_t> ranks;  // of each merge
  WholePiece whole_piece = WholePiece::is_one_token;
  std::map<std::string, TokenId, std::less<>> special;
  // Names that are matched in any text (Hugging Face's added tokens that are not special).
  std::map<std::string, TokenId, std::less<>> always_matched;
  std::unique_ptr<Splitter> splitter;
  SimdTier tier = simd_tier();
  // Bound of the word table that each thread has, which starts over when it is full; 0: 128 MiB, or more for
  // a large vocabulary. Must hold the vocabulary.
  size_t table_bytes = 0;
};

class BpeTokenizer final : public Tokenizer {
 public:
  // where: the file, for messages. Throws UserError when the vocabulary lacks a byte or is too large.
  BpeTokenizer(BpeModel model, const std::string& where);
  ~BpeTokenizer() override;

  void encode(std::string_view text, std::vector<TokenId>& out) const override;
  void encode_with_special(std::string_view text, std::vector<TokenId>& out) const override;
  std::string decode(std::span<const TokenId> ids) const override;
  size_t vocabulary_size() const override { return decoded_.size(); }
  const std::map<std::string, TokenId, std::less<>>& special_tokens() const override { return special_; }
  std::string kind() const override { return kind_; }

 private:
  struct Workspace;
  class Lease;

  void encode_matching(std::string_view text, const NameMatcher& names, std::vector<TokenId>& out) const;
  void encode_text(std::string_view text, Workspace& work, std::vector<TokenId>& out) const;
  void encode_part(std::string_view text, Workspace& work, std::vector<TokenId>& out) const;
  // Pieces of the batch at text[base], from `first` on: merges those that the word table lacks, together.
  void learn(std::string_view text, size_t base, size_t first, Workspace& work) const;
  void encode_missed(std::string_view piece, WordKey key, uint64_t hash, Workspace& work,
                     std::vector<TokenId>& out) const;
  void find_long_keys(std::string_view text, size_t base, Workspace& work) const;
  void add_word(std::string_view piece, WordKey key, uint64_t hash, std::span<const TokenId> ids,
                Workspace& work) const;
  // Is the word table for it?
  bool is_kept(std::string_view piece) const;
  // Where text can be cut for its first part, or its size.
  size_t cut(std::string_view text) const;

  std::string kind_;
  std::vector<std::string> decoded_;  // by id; a special token's is its name
  std::map<std::string, TokenId, std::less<>> special_;
  NameMatcher always_matched_;
  NameMatcher all_names_;
  std::unique_ptr<Splitter> splitter_;
  const WordKernels* kernels_;
  std::unique_ptr<MergeTable> merges_;
  std::unique_ptr<const WordTable>
      vocabulary_table_;  // every entry of the vocabulary: a workspace's first table
  size_t longest_kept_ = 0;

  // Workspaces that no call is using; one more is made when all are in use.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace llmft
