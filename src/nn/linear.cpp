#include "llmft/nn/linear.hpp"

namespace llmft {
namespace {

struct DownProjections {
  int64_t col;  // first adapter column
  Tensor da;
};

// Gradients of A that lie one after another, as those of neighbouring adapter columns, are one matrix.
std::vector<DownProjections> joined_da(const std::vector<LinearGradients::Adapter>& adapters) {
  std::vector<DownProjections> joined;
  for (const auto& adapter : adapters) {
    const Tensor& da = adapter.da;
    if (!joined.empty()) {
      auto& [col, before] = joined.back();
      if (da.contiguous() && before.contiguous() && adapter.col == col + before.rows &&
          da.data == static_cast<std::byte*>(before.data) + before.bytes()) {
        before.rows += da.rows;
        continue;
      }
    }
    joined.push_back({adapter.col, da});
  }
  return joined;
}

}  // namespace

void Linear::fill_input_tail(Ops& ops, const Tensor& x_ext) const {
  if (e_ != 0) ops.matmul(Layout::nt, x_ext.col_range(0, k()), a(), x_ext.col_range(k(), e_));
}

void Linear::fill_gradient_tail(Ops& ops, const Tensor& dy_ext) const {
  if (e_ != 0) ops.matmul(Layout::nn, dy_ext.col_range(0, n()), sb(), dy_ext.col_range(n(), e_));
}

void Linear::forward(Ops& ops, const Tensor& x_ext, const Tensor& y, float beta, const Tensor& c) const {
  ops.matmul(Layout::nt, x_ext, forward_weight(), y, 1, beta, c);
}

void Linear::backward_input(Ops& ops, const Tensor& dy_ext, const Tensor& dx) const {
  ops.matmul(Layout::nn, dy_ext, backward_weight(), dx);
}

void accumulate_gradients(Ops& ops, const LinearGradients& gradients, const Tensor& x_ext,
                          const Tensor& dy_ext, int64_t n, int64_t k) {
  if (gradients.dw)
    ops.matmul(Layout::tn, dy_ext.col_range(0, n), x_ext.col_range(0, k), gradients.dw, 1,
               gradients.dw_fresh ? 0.0f : 1.0f, gradients.dw);
  // the tail of dy_ext already carries s; that of x_ext does not
  for (const auto& [col, da] : joined_da(gradients.adapters))
    ops.matmul(Layout::tn, dy_ext.col_range(n + col, da.rows), x_ext.col_range(0, k), da, 1, 1, da);
  for (const auto& adapter : gradients.adapters)
    ops.matmul(Layout::tn, dy_ext.col_range(adapter.row, adapter.db.rows),
               x_ext.col_range(k + adapter.col, adapter.da.rows), adapter.db, gradients.scale, 1, adapter.db);
}

}  // namespace llmft
