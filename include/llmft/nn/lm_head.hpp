// Final norm, output projection and cross-entropy, only on the rows that are scored and in chunks of rows, so
// that the logits of a whole batch never exist. R scored rows, C width, V vocabulary.
#pragma once

#include "llmft/nn/attention_block.hpp"
#include "llmft/nn/linear.hpp"

namespace llmft {

struct LmHead {
  float eps;

  struct Weights {
    Tensor norm;    // [1, C]
    Tensor matrix;  // [V, C]
  };
  struct Gradients {
    Tensor norm;    // f32, or empty
    Tensor matrix;  // f32 [V, C], or empty
  };
  struct Scratch {
    Tensor x;       // [R, C] the scored rows
    Tensor xn;      // [R, C]
    Tensor dxn;     // [R, C]
    Tensor dx;      // [R, C]
    Tensor rstd;    // f32 [1, R]
    Tensor loss;    // f32 [1, R]
    Tensor logits;  // [chunk, V]
  };

  // Sum over scored rows of -log p(target); x [T, C].
  double loss(Ops& ops, const BatchView& batch, const Weights& w, const Scratch& scratch,
              const Tensor& x) const;

  // The same, and dx [T, C] = gradient of scale * sum, with parameter gradients accumulated.
  double loss_and_gradient(Ops& ops, const BatchView& batch, const Weights& w, const Gradients& g,
                           const Scratch& scratch, const Tensor& x, float scale, const Tensor& dx) const;

  // logits f32 [rows.size, V] of chosen rows of x.
  void logits(Ops& ops, Indices rows, const Weights& w, const Scratch& scratch, const Tensor& x,
              const Tensor& out) const;

 private:
  double run(Ops& ops, const BatchView& batch, const Weights& w, const Gradients& g, const Scratch& scratch,
             const Tensor& x, float scale, LossMode mode) const;
};

}  // namespace llmft
