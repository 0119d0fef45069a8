// x_mid = x + o(attention(rope(qkv(norm(x))))): the first half of a Llama layer, forward, backward and what
// is kept between them. T tokens, of which R rows are projected, C width, H D = heads * head_dim,
// N = (H + 2 Hk) D.
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
    Tensor rstd;  // f32 [1, T] of its norm
    Tensor qkv;   // [T, N] after RoPE
    Tensor attn;  // [T, H D + e_o] with its adapter tail
    Tensor lse;   // f32 [T, H]
  };
  struct Scratch {
    Tensor xn;     // [T, C + e_qkv]
    Tensor dqkv;   // [T, N + e_qkv]; backward only, as those below
    Tensor dattn;  // [T, H D]
    Tensor dxn;    // [T, C]
  };

  // Everything up to saved.attn [T, ..], then x_mid = x + o(attn), which may be done on R of the rows of
  // their own: in the last layer only some rows go on.
  void attend(Ops& ops, const BatchView& batch, const Weights& w, const Saved& saved,
              const Scratch& scratch) const;
  static void project(Ops& ops, const Linear& o, const Tensor& attn, const Tensor& x, const Tensor& x_mid);

  // dx [R, C + e_o] is the gradient of x_mid and, in the last columns, its tail dy sB_o; dattn [R, H D].
  static void project_backward(Ops& ops, const Linear& o, const LinearGradients& g, const Tensor& attn,
                               const Tensor& dx, const Tensor& dattn);
  // scratch.dattn is the gradient of saved.attn. dx [T, C]: on entry the gradient of x_mid, on exit that of
  // x, unless want_dx is false (nothing below is trained).
  void attend_backward(Ops& ops, const BatchView& batch, const Weights& w, const Gradients& g,
                       const Saved& saved, const Scratch& scratch, const Tensor& dx, bool want_dx) const;
};

}  // namespace llmft
