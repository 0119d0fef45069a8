// Byte-pair merging of one piece: start from its bytes, and while some two neighbours can be merged, merge
// the pair of lowest rank, the leftmost of equals. O(n log n) for long pieces, so that a word of a megabyte
// takes no quadratic time.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

struct Merge {
  TokenId left;
  TokenId right;
  TokenId merged;
};

class MergeTable {
 public:
  // What fits the packed pair table: 20 bits an id, 24 a rank, all ones kept for "empty".
  static constexpr size_t kMaxIds = (size_t{1} << 20) - 1;
  static constexpr size_t kMaxMerges = (size_t{1} << 24) - 1;

  struct Scratch {
    std::vector<TokenId> symbols;
    std::vector<uint32_t> ranks, next, previous;
    std::vector<uint64_t> heap;
  };

  // byte_ids[b]: id of byte b. merges[i] has ranks[i]. tiktoken ranks the merged string, however it is cut,
  // so there several merges share a rank; Hugging Face's have one each. Of a pair that comes twice the first
  // counts.
  MergeTable(const std::array<TokenId, 256>& byte_ids, std::span<const Merge> merges,
             std::span<const uint32_t> ranks);

  // Appends the ids of piece, size below 2^32.
  void encode(std::string_view piece, std::vector<TokenId>& out, Scratch& scratch) const;

 private:
  static constexpr size_t kFilterBits = 8;
  static constexpr uint32_t kNone = ~uint32_t{0};
  static uint64_t pair_key(TokenId left, TokenId right) { return uint64_t{left} << 20 | right; }
  size_t slot(uint64_t key) const { return key * 0x9E3779B97F4A7C15u >> shift_; }
  size_t filter_bit(uint64_t key) const { return key * 0x9E3779B97F4A7C15u >> (shift_ - 3); }
  uint32_t rank_of(TokenId left, TokenId right) const;
  void encode_short(std::string_view piece, std::vector<TokenId>& out) const;
  void encode_long(std::string_view piece, std::vector<TokenId>& out, Scratch& scratch) const;

  std::array<TokenId, 256> byte_ids_;
  std::vector<TokenId> merged_;       // by rank
  std::vector<uint32_t> byte_ranks_;  // 256 x 256: the first round needs no hashing
  std::vector<uint64_t> pairs_;       // open addressing: 40 bits of pair_key, 24 of rank; all ones: empty
  // A bit for each pair's hash, eight for a slot: small enough for the second-level cache, it answers most
  // questions for pairs that do not exist.
  std::vector<uint64_t> filter_;
  int shift_ = 0;
};

}  // namespace llmft
