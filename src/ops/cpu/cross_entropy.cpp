#include <cmath>

#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "exp.hpp"
#include "lanes.hpp"
#include "rows.hpp"

namespace llmft {

void CpuOps::cross_entropy(const Tensor& logits, Indices targets, float scale, const Tensor& loss,
                           LossMode mode, const Tensor& loss_scale) {
  int64_t classes = logits.cols;
  shapes::cross_entropy(logits, targets, loss);
  if (logits.rows == 0) return;
  if (loss_scale) scale *= static_cast<float>(loss_scale.row<double>(0)[0]);
  float* logit_row = scratch(0, classes);
  float* exp_row = scratch(1, classes);
  float* losses = loss.row<float>(0);
  visit_dtype(logits.dtype, [&]<class S>(S) {
    for (int64_t i = 0; i < logits.rows; ++i) {
      int32_t target = targets.data[i];
      check(target >= 0 && target < classes, "cross_entropy: target outside the vocabulary");
      const float* x = load(logits.row<S>(i), classes, logit_row);
      float top = largest(x, classes), below_top = top - x[target];
      float* e = mode == LossMode::loss_only ? exp_row : stage(logits.row<S>(i), logit_row);
      for (int64_t j = 0; j < classes; ++j) e[j] = exp_f32(x[j] - top);
      float total = sum_terms<float>(classes, [=](int64_t j) { return e[j]; });
      losses[i] = std::log(total) + below_top;
      if (mode == LossMode::loss_only) continue;
      float share = 1.0f / total;
      float hit = scale * (e[target] * share - 1.0f);
      for (int64_t j = 0; j < classes; ++j) e[j] = scale * (e[j] * share);
      e[target] = hit;
      store(e, logits.row<S>(i), classes);
    }
  });
}

}  // namespace llmft
