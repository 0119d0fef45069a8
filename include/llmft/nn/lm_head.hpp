// Final norm, output projection and cross-entropy, only on the rows that are scored and in chunks of rows, so
// that the logits of a whole batch never exist. R scored rows, C width, V vocabulary.
#pragma once

#include "llmft/nn/linear.hpp"

namespace llmft {

struct LmHead {
  float eps;

  struct Weights {
    Tensor norm;    // [1, C]
    Tensor matrix;  // [V, C]
  };
  struct Gradients {
    Tensor norm;                // f32, added to; or empty
    Tensor matrix;              // f32 [V, C], or empty
    bool matrix_fresh = false;  // matrix holds nothing yet: it is set
  };
  struct Scratch {
    Tensor xn;      // [R, C]
    Tensor dxn;     // [R, C]
    Tensor rstd;    // f32 [1, R]
    Tensor losses;  // f32 [1, R]
    Tensor logits;  // [chunk, V]
  };

  // loss f64 [1, 1] = sum over the rows of -log p(target); x [R, C].
  void loss(Ops& ops, Indices targets, const Weights& w, const Scratch& scratch, const Tensor& x,
            const Tensor& loss) const;

  // The same, and dx [R, C] += gradient of scale * loss_scale * sum (loss_scale f64 [1, 1], or empty for 1),
  // with parameter gradients.
  void loss_and_gradient(Ops& ops, Indices targets, const Weights& w, const Gradients& g, const Scratch& s,
                         const Tensor& x, float scale, const Tensor& loss_scale, const Tensor& dx,
                         const Tensor& loss) const;

  // out f32 [R, V] = logits of the rows of x.
  void logits(Ops& ops, const Weights& w, const Scratch& s, const Tensor& x, const Tensor& out) const;

 private:
  template <class F>
  void each_chunk(const Tensor& x, const Scratch& s, F&& f) const;
};

}  // namespace llmft
