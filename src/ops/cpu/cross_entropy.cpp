#include <cmath>

#include "cpu_ops.hpp"
#include "exp.hpp"
#include "lanes.hpp"
#include "rows.hpp"

namespace llmft {

void CpuOps::cross_entropy(const Tensor& logits, Indices targets, float scale, const Tensor& loss,
                           LossMode mode) {
  int64_t classes = logits.cols;
  check(targets.size == logits.rows && loss.numel() == logits.rows, "cross_entropy: shapes differ");
  if (logits.rows == 0) return;
  float* logit_row = scratch(0, classes);
  float* losses = loss.row<float>(0);
  visit_dtype(logits.dtype, [&]<class S>(S) {
    for (int64_t i = 0; i < logits.rows; ++i) {
      int32_t target = targets.data[i];
      check(target >= 0 && target < classes, "cross_entropy: target outside the vocabulary");
      const float* x = load(logits.row<S>(i), classes, logit_row);
      float top = largest(x, classes);
      float total = sum_terms<float>(classes, [=](int64_t j) { return exp_f32(x[j] - top); });
      losses[i] = std::log(total) + (top - x[target]);
      if (mode == LossMode::loss_only) continue;
      float* gradient = stage(logits.row<S>(i), logit_row);
      float share = 1.0f / total;
      float hit = exp_f32(x[target] - top) * share - 1.0f;
      for (int64_t j = 0; j < classes; ++j) gradient[j] = scale * (exp_f32(x[j] - top) * share);
      gradient[target] = scale * hit;
      store(gradient, logits.row<S>(i), classes);
    }
  });
}

}  // namespace llmft
