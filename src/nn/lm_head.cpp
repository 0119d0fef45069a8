#include "llmft/nn/lm_head.hpp"

#include <algorithm>

namespace llmft {

double LmHead::run(Ops& ops, const BatchView& batch, const Weights& w, const Gradients& g, const Scratch& s,
                   const Tensor& x, float scale, LossMode mode) const {
  int64_t rows = batch.loss_rows.size;
  ops.gather_rows(x, batch.loss_rows, s.x);
  ops.norm(s.x, w.norm, eps, {}, s.xn, s.rstd);
  for (int64_t first = 0; first < rows; first += s.logits.rows) {
    int64_t count = std::min(s.logits.rows, rows - first);
    Tensor logits = s.logits.row_range(0, count);
    Tensor xn = s.xn.row_range(first, count);
    ops.matmul(Layout::nt, xn, w.matrix, logits);
    ops.cross_entropy(logits, {batch.targets.data + first, count}, scale, s.loss.col_range(first, count),
                      mode);
    if (mode == LossMode::loss_only) continue;
    ops.matmul(Layout::nn, logits, w.matrix, s.dxn.row_range(first, count));
    if (g.matrix) ops.matmul(Layout::tn, logits, xn, g.matrix, 1, 1, g.matrix);
  }
  return ops.sum(s.loss);
}

double LmHead::loss(Ops& ops, const BatchView& batch, const Weights& w, const Scratch& scratch,
                    const Tensor& x) const {
  return run(ops, batch, w, {}, scratch, x, 1, LossMode::loss_only);
}

double LmHead::loss_and_gradient(Ops& ops, const BatchView& batch, const Weights& w, const Gradients& g,
                                 const Scratch& s, const Tensor& x, float scale, const Tensor& dx) const {
  double loss = run(ops, batch, w, g, s, x, scale, LossMode::loss_and_gradient);
  ops.device().zero(s.dx.data, s.dx.bytes());  // norm_backward adds to it
  ops.norm_backward(s.dxn, s.x, w.norm, s.rstd, {}, s.dx, g.norm);
  ops.scatter_rows(s.dx, batch.loss_rows, dx);
  return loss;
}

void LmHead::logits(Ops& ops, Indices rows, const Weights& w, const Scratch& s, const Tensor& x,
                    const Tensor& out) const {
  int64_t chunk = std::min(s.logits.rows, s.x.rows);
  for (int64_t first = 0; first < rows.size; first += chunk) {
    int64_t count = std::min(chunk, rows.size - first);
    Tensor picked = s.x.row_range(0, count), xn = s.xn.row_range(0, count),
           logits = s.logits.row_range(0, count);
    ops.gather_rows(x, {rows.data + first, count}, picked);
    ops.norm(picked, w.norm, eps, {}, xn, s.rstd.col_range(0, count));
    ops.matmul(Layout::nt, xn, w.matrix, logits);
    ops.convert(logits, out.row_range(first, count));
  }
}

}  // namespace llmft
