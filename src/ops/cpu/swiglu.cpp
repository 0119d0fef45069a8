#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "exp.hpp"
#include "rows.hpp"

namespace llmft {
namespace {

float sigmoid(float x) {
  return 1.0f / (1.0f + exp_f32(-x));
}

}  // namespace

void CpuOps::swiglu(const Tensor& gate_up, const Tensor& h) {
  int64_t width = h.cols;
  shapes::swiglu(gate_up, h);
  float* in_row = scratch(0, 2 * width);
  float* out_row = scratch(1, width);
  visit_dtype(h.dtype, [&]<class S>(S) {
    for (int64_t t = 0; t < h.rows; ++t) {
      const float* gate = load(gate_up.row<S>(t), 2 * width, in_row);
      const float* up = gate + width;
      float* out = stage(h.row<S>(t), out_row);
      for (int64_t i = 0; i < width; ++i) out[i] = gate[i] * sigmoid(gate[i]) * up[i];
      store(out, h.row<S>(t), width);
    }
  });
}

// silu'(g) = s (1 + g (1 - s)), s = sigmoid(g).
void CpuOps::swiglu_backward(const Tensor& dh, const Tensor& gate_up, const Tensor& h) {
  int64_t width = dh.cols;
  shapes::swiglu_backward(dh, gate_up, h);
  float* in_row = scratch(0, 2 * width);
  float* dh_row = scratch(1, width);
  float* h_row = scratch(2, width);
  visit_dtype(dh.dtype, [&]<class S>(S) {
    for (int64_t t = 0; t < dh.rows; ++t) {
      const float* d = load(dh.row<S>(t), width, dh_row);
      load(gate_up.row<S>(t), 2 * width, in_row);
      float* gate = stage(gate_up.row<S>(t), in_row);
      float* up = gate + width;
      float* out = h ? stage(h.row<S>(t), h_row) : h_row;
      for (int64_t i = 0; i < width; ++i) {
        float g = gate[i], u = up[i], s = sigmoid(g);
        out[i] = g * s * u;
        gate[i] = d[i] * u * (s * (1.0f + g * (1.0f - s)));
        up[i] = d[i] * (g * s);
      }
      store(gate, gate_up.row<S>(t), 2 * width);
      if (h) store(out, h.row<S>(t), width);
    }
  });
}

}  // namespace llmft
