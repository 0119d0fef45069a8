#include <algorithm>

#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "rows.hpp"

namespace llmft {

void CpuOps::convert(const Tensor& from, const Tensor& to, float scale) {
  shapes::convert(from, to);
  constexpr int64_t kPiece = 4096;  // floats in cache between the two conversions
  float* piece = scratch(0, kPiece);
  visit_dtype(from.dtype, [&]<class From>(From) {
    visit_dtype(to.dtype, [&]<class To>(To) {
      for (int64_t i = 0; i < from.rows; ++i)
        for (int64_t first = 0; first < from.cols; first += kPiece) {
          int64_t count = std::min(kPiece, from.cols - first);
          const float* values = load(from.row<From>(i) + first, count, piece);
          if (scale != 1.0f) {
            for (int64_t j = 0; j < count; ++j) piece[j] = scale * values[j];
            values = piece;
          }
          store(values, to.row<To>(i) + first, count);
        }
    });
  });
}

void CpuOps::add(const Tensor& from, const Tensor& to) {
  shapes::add(from, to);
  for (int64_t i = 0; i < to.rows; ++i) {
    const float* x = from.row<float>(i);
    float* y = to.row<float>(i);
    for (int64_t j = 0; j < to.cols; ++j) y[j] += x[j];
  }
}

}  // namespace llmft
