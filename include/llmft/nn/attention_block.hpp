// x_mid = x + o(attention(rope(qkv(norm(x))))): the first half of a Llama layer, forward, backward and what
// is kept between them. T tokens, C width, H D = heads * head_dim, N = (H + 2 Hk) D.
#pragma once

#include "llmft/nn/linear.hpp"

namespace llmft {

// One micro-batch on the device.
struct BatchView {
  Indices tokens;      // [T]
  Indices positions;   // [T], from 0 in every document
  Indices cu_seqlens;  // [documents + 1]
  Indices loss_rows;   // [R] rows whose output is scored
  Indices targets;     // [R]
};

struct AttentionBlock {
  AttentionShape shape;
  float eps;
  Tensor rope_table;  // f32 [P, D]

  struct Weights {
    Tensor norm;  // [1, C]
    Linear qkv;
    Linear o;
  };
  struct Gradients {
    Tensor norm;  // f32 [1, C], or empty
    LinearGradients qkv;
    LinearGradients o;
  };
  struct Saved {
    Tensor x;     // [T, C] the block's input
    Tensor qkv;   // [T, N] after RoPE
    Tensor attn;  // [T, H D + e_o] with its adapter tail
    Tensor lse;   // f32 [T, H]
  };
  struct Scratch {
    Tensor xn;     // [T, C + e_qkv]
    Tensor rstd;   // f32 [1, T]
    Tensor dqkv;   // [T, N + e_qkv]; backward only, as those below
    Tensor dattn;  // [T, H D]
    Tensor dxn;    // [T, C]
  };

  void forward(Ops& ops, const BatchView& batch, const Weights& w, const Saved& saved, const Scratch& scratch,
               const Tensor& x_mid) const;

  // dx [T, C + e_o]: on entry columns 0..C are the gradient of x_mid and the rest its tail dy sB_o; on exit
  // columns 0..C are the gradient of x, unless want_dx is false (nothing below is trained).
  void backward(Ops& ops, const BatchView& batch, const Weights& w, const Gradients& g, const Saved& saved,
                const Scratch& scratch, const Tensor& dx, bool want_dx) const;
};

}  // namespace llmft
