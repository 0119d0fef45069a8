#include "llmft/nn/lm_head.hpp"

#include <algorithm>

namespace llmft {

// f(first, count) for whole chunks, then the rest. On a GPU 2048 rows keep every multiprocessor busy in the
// product with the matrix, and a product of few rows is split along its inner dimension; equal chunks in
// between do neither.
template <class F>
void LmHead::each_chunk(const Tensor& x, const Scratch& s, F&& f) const {
  int64_t most = s.logits.rows;
  for (int64_t first = 0; first < x.rows; first += most) f(first, std::min(most, x.rows - first));
}

void LmHead::loss(Ops& ops, Indices targets, const Weights& w, const Scratch& s, const Tensor& x,
                  const Tensor& loss) const {
  ops.norm(x, w.norm, eps, {}, s.xn, s.rstd);
  each_chunk(x, s, [&](int64_t first, int64_t count) {
    Tensor logits = s.logits.row_range(0, count);
    ops.matmul(Layout::nt, s.xn.row_range(first, count), w.matrix, logits);
    ops.cross_entropy(logits, {targets.data + first, count}, 1, s.losses.col_range(first, count),
                      LossMode::loss_only);
  });
  ops.sum(s.losses, loss);
}

void LmHead::loss_and_gradient(Ops& ops, Indices targets, const Weights& w, const Gradients& g,
                               const Scratch& s, const Tensor& x, float scale, const Tensor& loss_scale,
                               const Tensor& dx, const Tensor& loss) const {
  ops.norm(x, w.norm, eps, {}, s.xn, s.rstd);
  each_chunk(x, s, [&](int64_t first, int64_t count) {
    Tensor logits = s.logits.row_range(0, count), xn = s.xn.row_range(first, count);
    ops.matmul(Layout::nt, xn, w.matrix, logits);
    ops.cross_entropy(logits, {targets.data + first, count}, scale, s.losses.col_range(first, count),
                      LossMode::loss_and_gradient, loss_scale);
    ops.matmul(Layout::nn, logits, w.matrix, s.dxn.row_range(first, count));
    bool fresh = g.matrix_fresh && first == 0;
    if (g.matrix) ops.matmul(Layout::tn, logits, xn, g.matrix, 1, fresh ? 0.0f : 1.0f, g.matrix);
  });
  ops.sum(s.losses, loss);
  ops.norm_backward(s.dxn, x, w.norm, s.rstd, {}, dx, g.norm);
}

void LmHead::logits(Ops& ops, const Weights& w, const Scratch& s, const Tensor& x, const Tensor& out) const {
  ops.norm(x, w.norm, eps, {}, s.xn, s.rstd);
  each_chunk(x, s, [&](int64_t first, int64_t count) {
    Tensor logits = s.logits.row_range(0, count);
    ops.matmul(Layout::nt, s.xn.row_range(first, count), w.matrix, logits);
    ops.convert(logits, out.row_range(first, count));
  });
}

}  // namespace llmft
