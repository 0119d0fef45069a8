// What the kernels of generation offer to decode_ops.cpp; see kernels.hpp for the manners.
#pragma once

#include "kernels.hpp"

namespace llmft::cuda {

struct DecodeRows {
  const int32_t* slots;  // -1: padding
  const int32_t* positions;
  int64_t count;
};

// One layer's cache: [slots * kv_heads * context, head_dim] each.
struct DecodeCache {
  void* k;
  void* v;
  Scalar type;
  int64_t context;
  int heads;
  int kv_heads;
  int head_dim;
};

// table f32 [P, D].
void rope_append(cudaStream_t stream, const DecodeRows& rows, const Matrix& table, const Matrix& qkv,
                 const DecodeCache& cache);

constexpr int kMostDecodeHeadDim = 128;
// head_dim must be a multiple of this.
constexpr int head_dim_unit(Scalar type) {
  return type == Scalar::f32 ? 4 : 8;
}
// Keys are taken in `splits` parts of a sequence, side by side. Scratch: see its size functions; counters
// must be zero, and are zero again afterwards.
int attend_splits(const DecodeCache& cache, int64_t rows, int64_t longest, int multiprocessors);
size_t attend_scratch_floats(const DecodeCache& cache, int64_t rows, int splits);
size_t attend_counters(const DecodeCache& cache, int64_t rows);
void attend(cudaStream_t stream, const DecodeRows& rows, const DecodeCache& cache, const Matrix& q,
            const Matrix& out, int64_t longest, int splits, float* scratch, uint32_t* counters);

void gate_rows(cudaStream_t stream, const Matrix& x, const int32_t* wanted);

// y[m] = [norm(x[m]) | tail[m]] W^T for a few rows m.
constexpr int kMostSkinnyRows = 4;
struct Skinny {
  Matrix x;                    // [M, K]
  const void* norm = nullptr;  // [K]; null: x as it is
  float eps = 0;
  Matrix tail{};                  // [M, e], of x's type; null: none
  Matrix w{};                     // [N, K + e], or its first K columns; [2 N, ..] with swiglu
  Matrix y{};                     // [M, N]
  bool swiglu = false;            // y = silu(row n) * (row N + n)
  bool add = false;               // y += ..
  const int32_t* gate = nullptr;  // rows of y whose entry is 0 become 0; null: none
};
void skinny(cudaStream_t stream, const Skinny& s, int multiprocessors);

// SampleRow of ops/decode_ops.hpp.
struct DrawRow {
  float temperature, top_p, min_p, penalty;
  int32_t top_k, seen;
  uint32_t random_low, random_high;
};
// seen: `words` words a row.
void sample(cudaStream_t stream, const Matrix& logits, const DrawRow* rows, uint32_t* seen, int64_t words,
            int32_t* tokens);

}  // namespace llmft::cuda
