// Tensors as the kernels' files take them.
#pragma once

#include "kernels.hpp"
#include "llmft/tensor/tensor.hpp"

namespace llmft {

inline cuda::Scalar scalar_of(DType type) {
  switch (type) {
    case DType::f32:
      return cuda::Scalar::f32;
    case DType::bf16:
      return cuda::Scalar::bf16;
    case DType::f16:
      return cuda::Scalar::f16;
    case DType::i32:
    case DType::f64:
      break;
  }
  internal_error("an op on f32, bf16 and f16 was given another type");
}

inline cuda::Matrix matrix_of(const Tensor& x) {
  return {x.data, scalar_of(x.dtype), x.rows, x.cols, x.ld};
}

// An f32 row vector; as on the host, another dtype is an InternalError. Null for an empty tensor.
inline float* f32_row(const Tensor& x) {
  return x ? x.row<float>(0) : nullptr;
}

}  // namespace llmft
