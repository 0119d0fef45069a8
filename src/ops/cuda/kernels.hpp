// What the kernels' files offer to the C++ files that check shapes: launches on a stream, of plain types
// only, since nvcc cannot read the project's headers that include fmt. Arguments are trusted; rows and
// columns may be any, also 0. Launch errors are left for cudaGetLastError.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "llmft/ops/update_state.hpp"

namespace llmft::cuda {

enum class Scalar : uint8_t { f32, bf16, f16 };

struct Matrix {
  void* data;
  Scalar type;
  int64_t rows;
  int64_t cols;
  int64_t ld;
};

// Indices outside a table stop the program (a trap), they are never followed.
void gather_rows(cudaStream_t stream, const Matrix& x, const int32_t* rows, const Matrix& y);
// x's other rows are left as they are.
void scatter_rows(cudaStream_t stream, const Matrix& y, const int32_t* rows, const Matrix& x);

// Scratch: see its size function.
size_t embed_backward_scratch(int64_t tokens, int64_t vocabulary);
void embed_backward(cudaStream_t stream, const int32_t* tokens, const Matrix& dx, const Matrix& dtable,
                    void* scratch, size_t scratch_bytes);

void norm(cudaStream_t stream, const Matrix& x, const void* w, float eps, const Matrix& y, float* rstd);
void norm_dx(cudaStream_t stream, const Matrix& dy, const Matrix& x, const void* w, const float* rstd,
             const Matrix& dx);
size_t norm_dw_scratch(int64_t rows, int64_t width);
void norm_dw(cudaStream_t stream, const Matrix& dy, const Matrix& x, const float* rstd, float* dw,
             void* scratch);

// sign: 1 forward, -1 backward. y may be x.
void rope(cudaStream_t stream, const Matrix& x, const Matrix& y, const int32_t* positions,
          const Matrix& table, float sign);

void swiglu(cudaStream_t stream, const Matrix& gate_up, const Matrix& h);
// h.data null: not wanted.
void swiglu_backward(cudaStream_t stream, const Matrix& dh, const Matrix& gate_up, const Matrix& h);

// loss_scale null: 1.
void cross_entropy(cudaStream_t stream, const Matrix& logits, const int32_t* targets, float scale,
                   const double* loss_scale, float* loss, bool want_gradient);

void convert(cudaStream_t stream, const Matrix& from, const Matrix& to, float scale);
// Many at once, from f32 to one type: rows on 16 bytes, columns in whole vectors.
constexpr int kConversionVector = 8;
struct Conversion {
  Matrix from, to;
  float scale;
};
bool converts_together(const Conversion& c);
void convert_together(cudaStream_t stream, const Conversion* list, int count);
void add(cudaStream_t stream, const Matrix& from, const Matrix& to);

enum class Term { value, square };
// out[i] = sum of the terms of x[i chunk .. (i + 1) chunk), `count` sums over `size` elements; all in device
// memory.
size_t chunk_sums_scratch(int64_t count, int64_t chunk);
void chunk_sums(cudaStream_t stream, const float* x, int64_t size, int64_t chunk, int64_t count, Term term,
                double* out, void* scratch);

// state: an UpdateState's fields, in device memory.
void advance_update(cudaStream_t stream, const UpdateRule& rule, const double* sum_squares, int64_t count,
                    double* state);
struct AdamW {
  float lr, beta1, beta2, eps, keep;
};
// copy.data null: not wanted.
void adamw(cudaStream_t stream, const AdamW& params, const double* state, int64_t size, float* p, float* m,
           float* v, const float* grad, const Matrix& copy);

}  // namespace llmft::cuda
