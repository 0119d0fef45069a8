// The tail columns are a product of the columns just written, so they see the rounded values, as a later
// product with the same input does.
#include <cmath>

#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "lanes.hpp"
#include "rows.hpp"

namespace llmft {

void CpuOps::norm(const Tensor& x, const Tensor& w, float eps, const Tensor& a, const Tensor& y,
                  const Tensor& rstd) {
  int64_t width = x.cols, tail = a ? a.rows : 0;
  shapes::norm(x, w, a, y, rstd);
  float* x_row = scratch(0, width);
  float* y_row = scratch(1, width);
  const float* weight = as_f32(w, 2).row<float>(0);
  float* rstd_row = rstd.row<float>(0);
  visit_dtype(x.dtype, [&]<class S>(S) {
    for (int64_t t = 0; t < x.rows; ++t) {
      const float* in = load(x.row<S>(t), width, x_row);
      float r = 1.0f / std::sqrt(dot(in, in, width) / static_cast<float>(width) + eps);
      float* out = stage(y.row<S>(t), y_row);
      for (int64_t c = 0; c < width; ++c) out[c] = in[c] * r * weight[c];
      store(out, y.row<S>(t), width);
      rstd_row[t] = r;
    }
  });
  if (tail != 0) matmul(Layout::nt, y.col_range(0, width), a, y.col_range(width, tail), 1, 0, {});
}

// With g = dy w: dx = rstd (g - x rstd^2 mean(g x)), dw = sum over t of dy x rstd.
void CpuOps::norm_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& rstd,
                           const Tensor& b, const Tensor& dx, const Tensor& dw) {
  int64_t width = x.cols, tail = b ? b.cols : 0;
  shapes::norm_backward(dy, x, w, rstd, b, dx, dw);
  float* dy_row = scratch(0, width);
  float* x_row = scratch(1, width);
  float* dx_row = scratch(2, width);
  const float* weight = as_f32(w, 3).row<float>(0);
  const float* rstd_row = rstd.row<float>(0);
  float* weight_gradient = dw ? dw.row<float>(0) : nullptr;
  visit_dtype(x.dtype, [&]<class S>(S) {
    for (int64_t t = 0; t < x.rows; ++t) {
      const float* g = load(dy.row<S>(t), width, dy_row);
      const float* in = load(x.row<S>(t), width, x_row);
      float r = rstd_row[t];
      float along = sum_terms<float>(width, [=](int64_t c) { return g[c] * weight[c] * in[c]; });
      float shrink = r * r * along / static_cast<float>(width);
      load(dx.row<S>(t), width, dx_row);
      float* out = stage(dx.row<S>(t), dx_row);
      for (int64_t c = 0; c < width; ++c) out[c] += r * (g[c] * weight[c] - in[c] * shrink);
      store(out, dx.row<S>(t), width);
      if (weight_gradient != nullptr)
        for (int64_t c = 0; c < width; ++c) weight_gradient[c] += g[c] * in[c] * r;
    }
  });
  if (tail != 0) matmul(Layout::nn, dx.col_range(0, width), b, dx.col_range(width, tail), 1, 0, {});
}

}  // namespace llmft
