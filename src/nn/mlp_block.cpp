#include "llmft/nn/mlp_block.hpp"

namespace llmft {

void MlpBlock::forward(Ops& ops, const Weights& w, const Saved& saved, const Scratch& scratch,
                       const Tensor& x_out) const {
  ops.norm(saved.x_mid, w.norm, eps, w.gate_up.a(), scratch.xn, saved.rstd);
  Tensor gate_up = saved.gate_up.col_range(0, w.gate_up.n());
  ops.matmul_swiglu(scratch.xn, w.gate_up.forward_weight(), gate_up, scratch.h.col_range(0, w.down.k()));
  w.down.fill_input_tail(ops, scratch.h);
  w.down.forward(ops, scratch.h, x_out, 1, saved.x_mid);
}

void MlpBlock::backward(Ops& ops, const Weights& w, const Gradients& g, const Saved& saved,
                        const Scratch& scratch, const Tensor& dx, const Tensor& next_sb) const {
  int64_t c = saved.x_mid.cols;
  Tensor dy_ext = dx.col_range(0, c + w.down.e());
  w.down.fill_gradient_tail(ops, dy_ext);
  Tensor h = g.down.wanted() ? scratch.h.col_range(0, w.down.k()) : Tensor{};
  ops.matmul_swiglu_backward(dy_ext, w.down.backward_weight(), saved.gate_up.col_range(0, w.gate_up.n()),
                             scratch.dh, h);
  if (g.down.wanted()) {
    w.down.fill_input_tail(ops, scratch.h);
    accumulate_gradients(ops, g.down, scratch.h, dy_ext, w.down.n(), w.down.k());
  }
  w.gate_up.fill_gradient_tail(ops, saved.gate_up);
  if (g.gate_up.wanted()) {
    ops.norm(saved.x_mid, w.norm, eps, w.gate_up.a(), scratch.xn, saved.rstd);
    accumulate_gradients(ops, g.gate_up, scratch.xn, saved.gate_up, w.gate_up.n(), w.gate_up.k());
  }
  w.gate_up.backward_input(ops, saved.gate_up, scratch.dxn);
  ops.norm_backward(scratch.dxn, saved.x_mid, w.norm, saved.rstd, next_sb, dx.col_range(0, c + next_sb.cols),
                    g.norm);
}

}  // namespace llmft
