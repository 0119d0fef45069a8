// What the CUDA backend holds on the device beside the tensors that it is given, as functions of shapes: it
// allocates by them, and a plan for a GPU that is not there counts by them. What a library alone knows
// (cuDNN's and CUB's scratch) is marked as predicted; the backend then holds what the library says.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "llmft/ops/ops.hpp"

namespace llmft::cuda_sizes {

constexpr size_t kGemmWorkspace = size_t{64} << 20;

inline int64_t round_up(int64_t x, int64_t unit) {
  return (x + unit - 1) / unit * unit;
}

// cuDNN's attention graphs are made for so many tokens and documents; workspaces are linear in tokens.
// Tokens: to a quarter of a power of two.
inline int64_t attention_tokens(int64_t tokens) {
  constexpr int64_t kFewest = 1024;
  if (tokens <= kFewest) return kFewest;
  auto below = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(tokens)));
  return round_up(tokens, below / 4);
}
inline int64_t attention_slots(int64_t documents) {
  constexpr int64_t kFewest = 64;
  return std::max(kFewest, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(documents))));
}

// Lengths and offsets of documents: `lists` lists of i64, each on 256 bytes, behind one of i32.
inline int64_t attention_table_pitch(int64_t slots) {
  return slots + 32;
}
inline size_t attention_lengths(int64_t slots) {
  return static_cast<size_t>(round_up(slots, 64)) * sizeof(int32_t);
}
inline size_t attention_tables(int64_t slots, int64_t lists) {
  return attention_lengths(slots) +
         static_cast<size_t>(lists * attention_table_pitch(slots)) * sizeof(int64_t);
}
// Room for any pack of so many tokens: a document has one at least.
inline size_t attention_most_tables(int64_t tokens, int64_t lists) {
  return attention_tables(attention_slots(tokens), lists);
}

// Of attention's backward: an f32 a token and head.
inline size_t attention_delta(int64_t tokens, int64_t heads) {
  return static_cast<size_t>(tokens * heads) * sizeof(float);
}

// Of the same in tf32 mode: halves of Q, dO, K and V, and three f32 a token and head.
inline size_t attention_halves(const AttentionShape& shape, int64_t tokens) {
  int64_t columns = 2 * (shape.heads + shape.kv_heads) * shape.head_dim;
  return 64 + static_cast<size_t>(tokens * columns) * 2 +
         static_cast<size_t>(3 * tokens * shape.heads) * sizeof(float);
}

// Scratch of embed_backward, norm_backward and sums, predicted (the largest piece is CUB's radix sort).
inline size_t embed_scratch(int64_t tokens) {
  constexpr size_t kSort = size_t{256} << 10;
  return static_cast<size_t>(5 * round_up(tokens, 64)) * sizeof(int32_t) + kSort;
}
inline size_t norm_dw_scratch(int64_t rows, int64_t width) {
  constexpr int64_t kRowsAChunk = 64;
  return static_cast<size_t>((rows + kRowsAChunk - 1) / kRowsAChunk * width) * sizeof(float);
}

inline size_t sums_scratch(int64_t count, int64_t chunk) {
  constexpr int64_t kPiece = 65536;
  return static_cast<size_t>(count * ((chunk + kPiece - 1) / kPiece)) * sizeof(double);
}

}  // namespace llmft::cuda_sizes
