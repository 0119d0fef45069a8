// x_out = x_mid + down(swiglu(gate_up(norm(x_mid)))): the second half of a Llama layer, forward, backward and
// what is kept between them. T tokens, C width, F intermediate width.
#pragma once

#include "llmft/nn/linear.hpp"

namespace llmft {

struct MlpBlock {
  float eps;

  struct Weights {
    Tensor norm;  // [1, C]
    Linear gate_up;
    Linear down;
  };
  struct Gradients {
    Tensor norm;  // f32 [1, C], or empty
    LinearGradients gate_up;
    LinearGradients down;
  };
  struct Saved {
    Tensor x_mid;    // [T, C] the block's input
    Tensor rstd;     // f32 [1, T] of its norm
    Tensor gate_up;  // [T, 2F + e_gate_up]; becomes its own gradient in backward
  };
  struct Scratch {
    Tensor xn;   // [T, C + e_gate_up]
    Tensor h;    // [T, F + e_down]
    Tensor dh;   // [T, F]; backward only, as the next
    Tensor dxn;  // [T, C]
  };

  void forward(Ops& ops, const Weights& w, const Saved& saved, const Scratch& scratch,
               const Tensor& x_out) const;

  // dx [T, C + max(e_down, e_o)]: on entry columns 0..C are the gradient of x_out; on exit those of x_mid,
  // and columns C.. the tail dx sB_o of the linear below, next_sb [C, e_o] (empty: none).
  void backward(Ops& ops, const Weights& w, const Gradients& g, const Saved& saved, const Scratch& scratch,
                const Tensor& dx, const Tensor& next_sb) const;
};

}  // namespace llmft
