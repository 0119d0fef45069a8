// Matrix products on Hopper (compute capability 9.0 alone) that apply SwiGLU, or its backward, to their
// result before it leaves the registers. Every element is one f32 sum over the inner dimension in ascending
// order, rounded to 16 bits, and then what the swiglu kernels make of it, bit for bit.
//
// Operands are read by the copy engine: 16-bit, base and rows on 16 bytes. Any number of rows and any inner
// size from 1; F is a multiple of 128. Plain types only, as in kernels.hpp.
#pragma once

#include <cuda.h>

#include "kernels.hpp"

namespace llmft::cuda {

// How a matrix is cut into boxes for the copy engine; zeros beyond its edges.
struct BoxShape {
  int rows;
  int cols;
};
constexpr int kSwigluInner = 64;  // of one step
constexpr BoxShape kSwigluInputBox = {128, kSwigluInner};
constexpr BoxShape kSwigluWeightBox = {128, kSwigluInner};
constexpr BoxShape kSwigluBackwardWeightBox = {kSwigluInner, 64};

struct GemmSwiglu {
  CUtensorMap input;   // x [T, K], or dy [T, K]
  CUtensorMap weight;  // w [2F, K], or w [K, F]
  int64_t inner;       // K
  Matrix gate_up;      // [T, 2F]
  Matrix h;            // [T, F]; backward: data null if not wanted
  int multiprocessors;
};

// gate_up = x w^T, h = silu(gate) up.
cudaError_t gemm_swiglu(cudaStream_t stream, const GemmSwiglu& arguments);
// dh = dy w; gate_up becomes its own gradient, h is rebuilt.
cudaError_t gemm_swiglu_backward(cudaStream_t stream, const GemmSwiglu& arguments);

}  // namespace llmft::cuda
