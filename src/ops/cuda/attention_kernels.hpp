// The attention kernels' launches: plain types only, as in kernels.hpp. Documents are found on the device
// from cu_seqlens, so nothing waits for the host; a cu_seqlens that goes down or past the tokens stops the
// program.
#pragma once

#include "kernels.hpp"

namespace llmft::cuda {

struct AttentionSizes {
  int64_t tokens;
  int64_t documents;
  const int32_t* cu_seqlens;  // [documents + 1]
  int heads;
  int kv_heads;
  int head_dim;  // up to kMostHeadDim
  float scale;   // of the scores
};
constexpr int kMostHeadDim = 128;

// Any strides and alignments, f32 arithmetic. lse f32 [tokens, heads].
void attention(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q, const Matrix& k,
               const Matrix& v, const Matrix& out, const Matrix& lse);
// Repeats bit for bit. delta: scratch of tokens * heads floats.
void attention_backward(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q, const Matrix& k,
                        const Matrix& v, const Matrix& out, const Matrix& lse, const Matrix& dout,
                        const Matrix& dq, const Matrix& dk, const Matrix& dv, float* delta);

// The same two on tensor cores: 16-bit elements as they are, f32 rounded to tf32, f32 sums. They take heads
// of 64 and 128 whose rows start on 16 bytes in every matrix but lse.
bool tensor_attention_takes(int head_dim, const Matrix& x);
// groups: as below; f32 tensors then as scaled halves.
enum class ForwardProducts { warps, groups };
void tensor_attention(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q, const Matrix& k,
                      const Matrix& v, const Matrix& out, const Matrix& lse, ForwardProducts products,
                      void* halves_scratch);
// Whose matrix products the backward takes: a warp's, or a warp group's (heads of 64, compute
// capability 9.0). f32 tensors are rounded to tf32 or taken as halves scaled by powers of two, which keep as
// many bits and go twice as fast (attention_halves.cuh); groups have no others. halves_scratch:
// cuda_sizes::attention_halves bytes for f32, unless by warps.
enum class BackwardProducts { warps, warps_in_halves, groups };
// The rotary embedding that q and k went through, [rows, head_dim] of cos and sin; values null: none.
struct RotationTable {
  const int32_t* positions = nullptr;
  const float* values = nullptr;
  int64_t ld = 0, rows = 0;
};
// Whether dQ and dK are rotated back; else that is still to be done.
bool tensor_attention_backward(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q,
                               const Matrix& k, const Matrix& v, const Matrix& out, const Matrix& lse,
                               const Matrix& dout, const Matrix& dq, const Matrix& dk, const Matrix& dv,
                               float* delta, BackwardProducts products, void* halves_scratch,
                               const RotationTable& rotation);

// lengths[slot] of each document, and offsets[i * pitch + slot] = its first token * strides[i], slots + 1 of
// them.
struct DocumentTables {
  static constexpr int kMost = 8;
  int64_t slots;  // at least the documents
  int32_t* lengths;
  int64_t* offsets;
  int64_t pitch;
  int count;
  int64_t strides[kMost];
};
void document_tables(cudaStream_t stream, const int32_t* cu_seqlens, int64_t documents,
                     const DocumentTables& tables);

}  // namespace llmft::cuda
