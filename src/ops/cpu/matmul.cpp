// Products are taken in f32. 16-bit operands, and f32 ones in tf32 mode, are brought into f32 scratch tile by
// tile, so that scratch stays bounded however large a weight is; K is never split, so each element of D is
// one sum rounded once.
#include <algorithm>

#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "rows.hpp"

namespace llmft {
namespace {

constexpr int64_t kTile = 2048;  // rows and columns of D a tile

// The rows of op(A), or the columns of op(B), that a tile needs.
Tensor slice(const Tensor& x, bool along_rows, int64_t first, int64_t count) {
  return along_rows ? x.row_range(first, count) : x.col_range(first, count);
}

void round_rows_to_tf32(const Tensor& from, const Tensor& to) {
  for (int64_t i = 0; i < from.rows; ++i) {
    const float* in = from.row<float>(i);
    float* out = to.row<float>(i);
    for (int64_t j = 0; j < from.cols; ++j) out[j] = round_to_tf32(in[j]);
  }
}

}  // namespace

void CpuOps::matmul(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float alpha, float beta,
                    const Tensor& c) {
  bool a_rows = layout != Layout::tn, b_rows = layout == Layout::nt;  // M or N counts rows, not columns
  shapes::matmul(layout, a, b, d, beta, c);
  if (d.numel() == 0) return;

  bool direct = a.dtype == DType::f32 && mode_ == MatmulMode::f32;
  auto operand = [&](const Tensor& x, size_t slot) {
    if (direct) return x;
    if (x.dtype != DType::f32) return as_f32(x, slot);
    Tensor rounded = matrix_view(scratch(slot, x.numel()), x.rows, x.cols);
    round_rows_to_tf32(x, rounded);
    return rounded;
  };
  int64_t m_tile = direct ? d.rows : kTile, n_tile = direct ? d.cols : kTile;
  for (int64_t m = 0; m < d.rows; m += m_tile) {
    int64_t rows = std::min(m_tile, d.rows - m);
    Tensor a_tile = operand(slice(a, a_rows, m, rows), 0);
    for (int64_t n = 0; n < d.cols; n += n_tile) {
      int64_t cols = std::min(n_tile, d.cols - n);
      Tensor b_tile = operand(slice(b, b_rows, n, cols), 1);
      Tensor to = d.row_range(m, rows).col_range(n, cols);
      Tensor d_tile = f32_like(to, 2);
      if (beta != 0) {
        Tensor from = c.row_range(m, rows).col_range(n, cols);
        if (from.data != d_tile.data) load_matrix(from, d_tile);
      }
      product(layout, a_tile, b_tile, d_tile, alpha, beta);
      if (d_tile.data != to.data) store_matrix(d_tile, to);
    }
  }
}

}  // namespace llmft
