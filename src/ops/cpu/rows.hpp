// How an op written for rows of floats reads and writes rows of S: floats are used where they lie, 16-bit
// values pass through a row of scratch, which is where the one rounding happens.
#pragma once

#include "llmft/tensor/tensor.hpp"

namespace llmft {

inline const float* load(const float* row, int64_t, float*) {
  return row;
}
template <class S>
const float* load(const S* row, int64_t n, float* scratch) {
  auto size = static_cast<size_t>(n);
  convert(std::span<const S>(row, size), std::span<float>(scratch, size));
  return scratch;
}

// Where to compute the floats of an output row; store() then brings them to it.
inline float* stage(float* row, float*) {
  return row;
}
template <class S>
float* stage(S*, float* scratch) {
  return scratch;
}
template <class S>
void store(const float* values, S* row, int64_t n) {
  auto size = static_cast<size_t>(n);
  if (static_cast<const void*>(values) != row)
    convert(std::span<const float>(values, size), std::span<S>(row, size));
}

// A whole matrix of any float dtype into f32, and f32 into any.
inline void load_matrix(const Tensor& from, const Tensor& to) {
  visit_dtype(from.dtype, [&]<class S>(S) {
    for (int64_t i = 0; i < from.rows; ++i) {
      float* row = to.row<float>(i);
      store(load(from.row<S>(i), from.cols, row), row, from.cols);
    }
  });
}
inline void store_matrix(const Tensor& from, const Tensor& to) {
  visit_dtype(to.dtype, [&]<class S>(S) {
    for (int64_t i = 0; i < to.rows; ++i) store(from.row<float>(i), to.row<S>(i), to.cols);
  });
}

}  // namespace llmft
