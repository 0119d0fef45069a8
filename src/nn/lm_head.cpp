#include "llmft/nn/lm_head.hpp"

#include <algorithm>

namespace llmft {

// f(first, count) for chunks of about equal size: a short last one would waste what its products start with.
template <class F>
void LmHead::each_chunk(const Tensor& x, const Scratch& s, F&& f) const {
  constexpr int64_t kRowTile = 128;  // of a GPU's matrix products
  int64_t chunks = (x.rows + s.logits.rows - 1) / s.logits.rows;
  if (chunks == 0) return;
  int64_t each = (x.rows + chunks - 1) / chunks;
  each = std::min((each + kRowTile - 1) / kRowTile * kRowTile, s.logits.rows);
  for (int64_t first = 0; first < x.rows; first += each) f(first, std::min(each, x.rows - first));
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
