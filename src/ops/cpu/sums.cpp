#include <algorithm>

#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "lanes.hpp"

namespace llmft {

void CpuOps::chunk_sum_squares(const Tensor& x, int64_t chunk, const Tensor& out) {
  shapes::chunk_sum_squares(x, chunk, out);
  int64_t size = x.numel();
  for (int64_t i = 0; i < out.numel(); ++i) {
    int64_t first = i * chunk;
    const float* values = x.row<float>(0) + first;
    out.row<double>(0)[i] = sum_terms<double>(std::min(chunk, size - first), [=](int64_t j) {
      double value = values[j];
      return value * value;
    });
  }
}

void CpuOps::sum(const Tensor& x, const Tensor& out) {
  shapes::sum(x, out);
  const float* values = x.row<float>(0);
  out.row<double>(0)[0] =
      sum_terms<double>(x.numel(), [=](int64_t j) { return static_cast<double>(values[j]); });
}

void CpuOps::advance_update(const UpdateRule& rule, const Tensor& sum_squares, const Tensor& state) {
  shapes::advance_update(sum_squares, state);
  double total = 0;
  for (int64_t i = 0; i < sum_squares.numel(); ++i) total += sum_squares.row<double>(0)[i];
  advance(update_state(state), rule, total);
}

}  // namespace llmft
