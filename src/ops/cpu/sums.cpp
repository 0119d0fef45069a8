#include <algorithm>

#include "cpu_ops.hpp"
#include "lanes.hpp"

namespace llmft {

void CpuOps::chunk_sum_squares(const Tensor& x, int64_t chunk, std::span<double> out) {
  check(x.contiguous() && chunk > 0, "chunk_sum_squares: not a flat row in chunks");
  int64_t size = x.numel();
  check(static_cast<int64_t>(out.size()) == (size + chunk - 1) / chunk,
        "chunk_sum_squares: wrong number of chunks");
  if (size == 0) return;
  for (size_t i = 0; i < out.size(); ++i) {
    int64_t first = static_cast<int64_t>(i) * chunk;
    const float* values = x.row<float>(0) + first;
    out[i] = sum_terms<double>(std::min(chunk, size - first), [=](int64_t j) {
      double value = values[j];
      return value * value;
    });
  }
}

double CpuOps::sum(const Tensor& x) {
  check(x.contiguous(), "sum: not a flat row");
  if (x.numel() == 0) return 0;
  const float* values = x.row<float>(0);
  return sum_terms<double>(x.numel(), [=](int64_t j) { return static_cast<double>(values[j]); });
}

}  // namespace llmft
