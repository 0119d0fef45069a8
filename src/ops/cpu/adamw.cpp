#include <cmath>

#include "../shapes.hpp"
#include "cpu_ops.hpp"

namespace llmft {

void CpuOps::adamw(const AdamWParams& params, const Tensor& state, const Tensor& p, const Tensor& m,
                   const Tensor& v, const Tensor& grad, const Tensor& copy) {
  int64_t size = p.numel();
  shapes::adamw(state, p, m, v, grad, copy);
  const UpdateState& update = update_state(state);
  if (size == 0 || update.apply == 0) return;
  const AdamWParams s = params;
  const auto grad_scale = static_cast<float>(update.grad_scale);
  const auto correction1 = static_cast<float>(update.correction1);
  const auto correction2 = static_cast<float>(update.correction2);
  const float keep = 1.0f - s.lr * s.weight_decay;
  float* weights = p.row<float>(0);
  float* first = m.row<float>(0);
  float* second = v.row<float>(0);
  const float* gradient = grad.row<float>(0);
  for (int64_t i = 0; i < size; ++i) {
    float g = grad_scale * gradient[i];
    first[i] = s.beta1 * first[i] + (1.0f - s.beta1) * g;
    second[i] = s.beta2 * second[i] + (1.0f - s.beta2) * (g * g);
    float step = s.lr * (first[i] / correction1) / (std::sqrt(second[i] / correction2) + s.eps);
    weights[i] = weights[i] * keep - step;
  }
  if (copy) convert(p, copy, 1);
}

}  // namespace llmft
