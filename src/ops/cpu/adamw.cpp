#include <cmath>

#include "cpu_ops.hpp"

namespace llmft {

void CpuOps::adamw(const AdamWParams& params, const Tensor& p, const Tensor& m, const Tensor& v,
                   const Tensor& grad) {
  int64_t size = p.numel();
  check(m.numel() == size && v.numel() == size && grad.numel() == size, "adamw: sizes differ");
  check(p.contiguous() && m.contiguous() && v.contiguous() && grad.contiguous(), "adamw: not flat rows");
  if (size == 0) return;
  const AdamWParams s = params;
  const float keep = 1.0f - s.lr * s.weight_decay;
  float* weights = p.row<float>(0);
  float* first = m.row<float>(0);
  float* second = v.row<float>(0);
  const float* gradient = grad.row<float>(0);
  for (int64_t i = 0; i < size; ++i) {
    float g = s.grad_scale * gradient[i];
    first[i] = s.beta1 * first[i] + (1.0f - s.beta1) * g;
    second[i] = s.beta2 * second[i] + (1.0f - s.beta2) * (g * g);
    float step = s.lr * (first[i] / s.correction1) / (std::sqrt(second[i] / s.correction2) + s.eps);
    weights[i] = weights[i] * keep - step;
  }
}

}  // namespace llmft
