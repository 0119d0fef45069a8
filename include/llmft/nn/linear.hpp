// A linear layer, with or without LoRA adapters as extra K columns (ops/ops.hpp). The weight is stored as
// W_ext [N + e, K + e] = [[W, sB], [A, 0]].
#pragma once

#include <vector>

#include "llmft/ops/ops.hpp"

namespace llmft {

class Linear {
 public:
  // w_ext [N + e, K + e].
  Linear(const Tensor& w_ext, int64_t extension) : w_(w_ext), e_(extension) {}

  int64_t n() const { return w_.rows - e_; }
  int64_t k() const { return w_.cols - e_; }
  int64_t e() const { return e_; }

  Tensor a() const { return e_ == 0 ? Tensor{} : w_.row_range(n(), e_).col_range(0, k()); }   // [e, K]
  Tensor sb() const { return e_ == 0 ? Tensor{} : w_.row_range(0, n()).col_range(k(), e_); }  // [N, e]

  // y = x_ext forward_weight^T; dx = dy_ext backward_weight.
  Tensor forward_weight() const { return w_.row_range(0, n()); }   // [N, K + e]
  Tensor backward_weight() const { return w_.col_range(0, k()); }  // [N + e, K]

  // x_ext columns K.. = x A^T.
  void fill_input_tail(Ops& ops, const Tensor& x_ext) const;
  // dy_ext columns N.. = dy sB.
  void fill_gradient_tail(Ops& ops, const Tensor& dy_ext) const;

  // y [T, N] = x_ext W^T + beta c.
  void forward(Ops& ops, const Tensor& x_ext, const Tensor& y, float beta = 0, const Tensor& c = {}) const;
  // dx [T, K] from dy_ext [T, N + e], its tail filled.
  void backward_input(Ops& ops, const Tensor& dy_ext, const Tensor& dx) const;

 private:
  Tensor w_;
  int64_t e_;
};

// Where a linear's parameter gradients go; all f32. Adapters' are added to; dw too, unless it is fresh.
struct LinearGradients {
  struct Adapter {
    int64_t row;  // first output row of the module inside the packed linear
    int64_t col;  // its first adapter column
    Tensor da;    // [r, K]
    Tensor db;    // [rows, r]
  };
  Tensor dw;  // [N, K]; empty unless the weight itself is trained
  std::vector<Adapter> adapters;
  float scale = 1;        // s of s B A
  bool dw_fresh = false;  // dw holds nothing yet: it is set

  bool wanted() const { return static_cast<bool>(dw) || !adapters.empty(); }
};

// x_ext [T, K + e] and dy_ext [T, N + e] with their tails filled.
void accumulate_gradients(Ops& ops, const LinearGradients& gradients, const Tensor& x_ext,
                          const Tensor& dy_ext, int64_t n, int64_t k);

}  // namespace llmft
