// The vocabulary of the training step: coarse operations that a backend implements once per device. The CPU
// backend is the oracle (plain loops, matrix products by OpenBLAS); a faster backend computes the same
// functions.
//
// Conventions. T tokens, C model width, R supervised rows, e adapter columns. Activations and weights have
// the recipe's compute dtype S (f32, bf16 or f16); everything is computed in f32 and rounded once on writing.
// rstd, lse, loss and all parameter gradients are f32. "accumulates" means +=, else outputs are overwritten
// whole. Tensors may be strided by rows. Inputs and outputs do not overlap except where "in place" is said.
// Shapes are checked: a mismatch is an InternalError.
//
// Adapters ride as extra K columns (docs/decisions/0002): a linear's weight is stored as W_ext [N + e, K + e]
// =
// [[W, sB], [A, 0]], its input as x_ext [T, K + e] = [x, x A^T]; then y = x_ext (W_ext rows 0..N)^T and
// dx = [dy, dy sB] (W_ext columns 0..K). e = 0 is the plain linear.
#pragma once

#include <memory>
#include <span>

#include "llmft/device/device.hpp"
#include "llmft/ops/update_state.hpp"
#include "llmft/tensor/tensor.hpp"

namespace llmft {

enum class Layout {
  nt,  // D[M,N] = A[M,K] B[N,K]^T    forward:  y = x W^T
  nn,  // D[M,N] = A[M,K] B[K,N]      dgrad:   dx = dy W
  tn,  // D[M,N] = A[K,M]^T B[K,N]    wgrad:   dW = dy^T x
};

// How f32 operands of a matrix product are taken.
enum class MatmulMode { f32, tf32 };

enum class Direction { forward, backward };

// The rotary embedding that q and k went through; positions empty: none.
struct Rotation {
  Indices positions;  // [T]
  Tensor table;       // as rope() takes it
};
enum class LossMode { loss_only, loss_and_gradient };

struct AttentionShape {
  int64_t heads;     // query heads H
  int64_t kv_heads;  // Hk, divides H
  int64_t head_dim;  // D
};

struct AdamWParams {
  float lr;
  float beta1;
  float beta2;
  float eps;
  float weight_decay;
};

// to = scale * from, as Ops::convert() does it.
struct Conversion {
  Tensor from, to;
  float scale = 1;
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual Device& device() = 0;

  // x[t] = table[tokens[t]]. table [V, C], x [T, C].
  virtual void embed(Indices tokens, const Tensor& table, const Tensor& x) = 0;
  // dtable[tokens[t]] += dx[t], t ascending. dtable f32 [V, C], accumulates.
  virtual void embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable) = 0;

  // RMSNorm (Zhang, Sennrich 2019) with the adapter's down-projection: xn = x * rstd * w, rstd =
  // 1/sqrt(mean(x^2) + eps); y columns 0..C = xn, columns C.. = xn A^T, taken from the rounded xn. w [1, C];
  // a [e, C] or empty; y [T, C + e]; rstd [1, T].
  virtual void norm(const Tensor& x, const Tensor& w, float eps, const Tensor& a, const Tensor& y,
                    const Tensor& rstd) = 0;
  // dx columns 0..C += d(norm)/dx applied to dy; then, with b [C, e] given, dx columns C.. = dx[0..C] b (the
  // next linear's adapter tail). dw [1, C] f32 accumulates; empty: not wanted. dy [T, C], dx [T, C + e].
  virtual void norm_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& rstd,
                             const Tensor& b, const Tensor& dx, const Tensor& dw) = 0;

  // D = alpha * op(A) op(B) + beta * C; C may be D itself, and is read only where beta != 0. A and B share a
  // dtype; C and D share one, which may be f32 for 16-bit operands.
  virtual void matmul(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float alpha = 1,
                      float beta = 0, const Tensor& c = {}) = 0;

  // Rotary embedding, Hugging Face's half-split form, in place. x [T, heads * D]; table f32 [P, D] =
  // (cos(p f_0).. cos(p f_{D/2-1}), sin(p f_0)..); positions < P. backward rotates by the negative angle.
  virtual void rope(const Tensor& x, Indices positions, const Tensor& table, Direction direction) = 0;

  // Causal attention within documents: token t sees the tokens of its own document up to itself. cu_seqlens
  // [documents + 1], from 0 to T. q [T, H D], k, v [T, Hk D], out [T, H D]; lse f32 [T, H]. Scores are scaled
  // by 1/sqrt(D).
  virtual void attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& out, const Tensor& lse) = 0;
  // With a rotation, dq and dk are the gradients of what q and k were before it.
  virtual void attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q,
                                  const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                                  const Tensor& dout, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                  const Rotation& rotation = {}) = 0;

  // h = silu(gate) * up. gate_up [T, 2F] = [gate | up], h [T, F].
  virtual void swiglu(const Tensor& gate_up, const Tensor& h) = 0;
  // gate_up becomes its own gradient, in place. dh [T, F]. h is rebuilt on the way into h, unless empty.
  virtual void swiglu_backward(const Tensor& dh, const Tensor& gate_up, const Tensor& h) = 0;

  // The linear above and the op in one, where a backend can keep what lies between out of memory; the same
  // as both one after the other. gate_up = x w^T, h = silu(gate) * up. x [T, K], w [2F, K].
  virtual void matmul_swiglu(const Tensor& x, const Tensor& w, const Tensor& gate_up, const Tensor& h) {
    matmul(Layout::nt, x, w, gate_up);
    swiglu(gate_up, h);
  }
  // swiglu_backward of dh = dy w. dy [T, K], w [K, F]; dh [T, F] is scratch: its values afterwards are not
  // told.
  virtual void matmul_swiglu_backward(const Tensor& dy, const Tensor& w, const Tensor& gate_up,
                                      const Tensor& dh, const Tensor& h) {
    matmul(Layout::nn, dy, w, dh);
    swiglu_backward(dh, gate_up, h);
  }

  // y[i] = x[rows[i]].
  virtual void gather_rows(const Tensor& x, Indices rows, const Tensor& y) = 0;
  // x = 0 but x[rows[i]] = y[i]; rows are distinct.
  virtual void scatter_rows(const Tensor& y, Indices rows, const Tensor& x) = 0;

  // loss[i] = log sum_j exp(logits[i,j]) - logits[i, targets[i]] (natural log). With gradient: logits become
  // scale * loss_scale * (softmax - onehot), in place. logits [R, V] of S or f32, loss f32 [1, R], loss_scale
  // f64 [1, 1] or empty for 1.
  virtual void cross_entropy(const Tensor& logits, Indices targets, float scale, const Tensor& loss,
                             LossMode mode, const Tensor& loss_scale = {}) = 0;

  // to = scale * from, elementwise, any float dtypes, strides allowed.
  virtual void convert(const Tensor& from, const Tensor& to, float scale = 1) = 0;
  // convert() of each, many small ones in one launch where a device can.
  virtual void convert_each(std::span<const Conversion> list) {
    for (const Conversion& c : list) convert(c.from, c.to, c.scale);
  }
  // to += from; f32.
  virtual void add(const Tensor& from, const Tensor& to) = 0;

  // Over a flat f32 row: out[i] = sum of squares of elements [i chunk, (i + 1) chunk), in f64, in a fixed
  // order. out f64 [1, ceil(elements / chunk)].
  virtual void chunk_sum_squares(const Tensor& x, int64_t chunk, const Tensor& out) = 0;
  // out f64 [1, 1] = the sum of a flat f32 row, in f64, in a fixed order.
  virtual void sum(const Tensor& x, const Tensor& out) = 0;

  // advance() of a state f64 [1, kUpdateFields] by the sum, in a fixed order, of sum_squares f64 [1, n].
  virtual void advance_update(const UpdateRule& rule, const Tensor& sum_squares, const Tensor& state) = 0;
  // AdamW (Loshchilov, Hutter 2019), as torch.optim.AdamW: g = grad_scale grad; p -= lr wd p; m = b1 m + (1 -
  // b1) g; v = b2 v + (1 - b2) g^2; p -= lr (m / c1) / (sqrt(v / c2) + eps). All flat f32 of one length;
  // grad_scale, c1 and c2 are those of the state, and nothing changes where its `apply` is 0. copy, of any
  // float dtype, becomes p; empty: not wanted.
  virtual void adamw(const AdamWParams& params, const Tensor& state, const Tensor& p, const Tensor& m,
                     const Tensor& v, const Tensor& grad, const Tensor& copy = {}) = 0;
};

// threads: for matrix products. Results do not depend on it when it is 1 on every rank (--deterministic).
std::unique_ptr<Ops> make_cpu_ops(Device& device, MatmulMode mode, int threads);

}  // namespace llmft
