// Byte-pair merging of pieces: start from a piece's bytes, and while some two neighbours can be merged, merge
// the pair of lowest rank, the leftmost of equals. O(n log n) for long pieces, so that a word of a megabyte
// takes no quadratic time.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/tokenizer/huge_array.hpp"
#include "llmft/tokenizer/simd.hpp"
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
  struct Range {
    size_t first, count;
  };

  // byte_ids[b]: id of byte b. merges[i] has ranks[i]. tiktoken ranks the merged string, however it is cut,
  // so there several merges share a rank; Hugging Face's have one each. Of a pair that comes twice the first
  // counts.
  MergeTable(const std::array<TokenId, 256>& byte_ids, std::span<const Merge> merges,
             std::span<const uint32_t> ranks, SimdTier tier = simd_tier());

  // Appends the ids of all pieces (sizes below 2^32) to ids, in any order; ranges[i] is where those of
  // pieces[i] are. Several at a time cost less each than one: they wait for memory together.
  void encode(std::span<const std::string_view> pieces, std::vector<TokenId>& ids, std::span<Range> ranges,
              Scratch& scratch) const;
  // Appends the ids of one piece.
  void encode(std::string_view piece, std::vector<TokenId>& ids, Scratch& scratch) const;

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  // A pair that may be merged: its rank << 6 | its position, so that the lowest value is the one to merge.
  static constexpr int32_t kNever = 0x7FFFFFFF;
  struct Lane;

  static uint64_t pair_key(TokenId left, TokenId right) { return uint64_t{left} << 20 | right; }
  static uint64_t hash(uint64_t key) {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(key) * 0x9E3779B97F4A7C15u;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  size_t slot_of(uint64_t hash, uint64_t displacement) const {
    return (hash + displacement * (hash >> 20 | 1)) & mask_;
  }
  size_t slot(uint64_t key) const {
    const uint64_t h = hash(key);
    return slot_of(h, displacements_[h >> group_shift_]);
  }
  bool place(std::span<const uint64_t> entries, size_t capacity);
  uint32_t rank_of(TokenId left, TokenId right) const;
  void encode_long(std::string_view piece, std::vector<TokenId>& ids, Scratch& scratch) const;

  using EncodeShort = void (*)(const MergeTable&, std::span<const std::string_view>, std::vector<TokenId>&,
                               std::span<Range>);
  static EncodeShort encode_short_for(SimdTier tier);
  static void encode_short_plain(const MergeTable&, std::span<const std::string_view>, std::vector<TokenId>&,
                                 std::span<Range>);
  static void encode_short_avx2(const MergeTable&, std::span<const std::string_view>, std::vector<TokenId>&,
                                std::span<Range>);
  static void encode_short_avx512(const MergeTable&, std::span<const std::string_view>, std::vector<TokenId>&,
                                  std::span<Range>);
  static inline void run_lanes(const MergeTable&, std::span<const std::string_view>, std::vector<TokenId>&,
                               std::span<Range>);
  static inline size_t next_short(std::span<const std::string_view> pieces, size_t from);
  inline void start(Lane& lane, std::string_view piece, size_t index) const;
  inline bool step(Lane& lane) const;

  EncodeShort encode_short_;
  std::array<TokenId, 256> byte_ids_;
  std::vector<TokenId> merged_;      // by rank
  bool ranks_are_ids_;               // merged_ says nothing new
  std::vector<int32_t> byte_pairs_;  // 256 x 256, rank << 6 or kNever: the first round needs no hashing
  // A perfect hash of the pairs: a pair is in one slot or nowhere, so that finding it takes no branch. A slot
  // has 40 bits of pair_key and 24 of rank; all ones: empty. Pairs of a group share the displacement that
  // brought each of them to an empty slot.
  HugeArray<uint64_t> pairs_;
  std::vector<uint8_t> displacements_;
  uint64_t mask_ = 0;
  int group_shift_ = 0;
};

}  // namespace llmft
