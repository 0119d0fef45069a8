// The two loops over a text's pieces, in a version per tier: pieces to keys, and keys to ids.
#pragma once

#include <cstddef>
#include <cstdint>

#include "llmft/tokenizer/simd.hpp"
#include "llmft/tokenizer/tokenizer.hpp"
#include "llmft/tokenizer/word_table.hpp"

namespace llmft {

// The pieces that start in kBlocks blocks of 64 bytes. A batch's lines of the table and its keys fit the
// first-level cache for usual text, so that what is prefetched is still there when it is looked up.
struct WordBatch {
  static constexpr size_t kBlocks = 16;
  static constexpr size_t kMost = kBlocks * 64;

  uint32_t position[kMost + 64];  // relative to the batch's first byte; one more than count: end of the last
  WordKey key[kMost];             // of pieces longer than WordTable::kMaxShort: zero, which no entry has
  uint64_t hash[kMost];
  TokenId ids[kMost * 4 + 4];
  uint32_t long_pieces[kMost];  // which pieces are longer than WordTable::kMaxShort
  size_t count = 0;
  size_t long_count = 0;
};

struct WordKernels {
  // Lists the bits of `starts` (`blocks` words) in batch.position and sets count.
  void (*list)(const uint64_t* starts, size_t blocks, WordBatch& batch);
  // Keys and hashes of the batch's pieces, a prefetch of where they belong, and the list of long ones.
  // readable: bytes that may be read from text on.
  void (*keys)(const char* text, size_t readable, const WordTable& table, WordBatch& batch);
  // Appends ids of pieces from `first` on to batch.ids, `filled` of which are in use, as long as they are at
  // home in the table. Returns the first piece that is not, or count.
  size_t (*look_up)(const WordTable& table, WordBatch& batch, size_t first, size_t& filled);
};

const WordKernels& word_kernels(SimdTier tier);

}  // namespace llmft
