#include "llmft/nn/attention_block.hpp"

namespace llmft {
namespace {

struct Qkv {
  Tensor q, k, v;
};

Qkv split_qkv(const AttentionShape& s, const Tensor& qkv) {
  int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  return {qkv.col_range(0, q), qkv.col_range(q, kv), qkv.col_range(q + kv, kv)};
}

}  // namespace

void AttentionBlock::attend(Ops& ops, const BatchView& batch, const Weights& w, const Saved& saved,
                            const Scratch& scratch) const {
  int64_t rotated = (shape.heads + shape.kv_heads) * shape.head_dim;
  ops.norm(saved.x, w.norm, eps, w.qkv.a(), scratch.xn, saved.rstd);
  w.qkv.forward(ops, scratch.xn, saved.qkv);
  ops.rope(saved.qkv.col_range(0, rotated), batch.positions, rope_table, Direction::forward);
  auto [q, k, v] = split_qkv(shape, saved.qkv);
  ops.attention(shape, batch.cu_seqlens, q, k, v, saved.attn.col_range(0, w.o.k()), saved.lse);
}

void AttentionBlock::project(Ops& ops, const Linear& o, const Tensor& attn, const Tensor& x,
                             const Tensor& x_mid) {
  o.fill_input_tail(ops, attn);
  o.forward(ops, attn, x_mid, 1, x);
}

void AttentionBlock::project_backward(Ops& ops, const Linear& o, const LinearGradients& g, const Tensor& attn,
                                      const Tensor& dx, const Tensor& dattn) {
  o.backward_input(ops, dx, dattn);
  accumulate_gradients(ops, g, attn, dx, o.n(), o.k());
}

void AttentionBlock::attend_backward(Ops& ops, const BatchView& batch, const Weights& w, const Gradients& g,
                                     const Saved& saved, const Scratch& scratch, const Tensor& dx,
                                     bool want_dx) const {
  int64_t n = w.qkv.n();
  auto [q, k, v] = split_qkv(shape, saved.qkv);
  Tensor dqkv = scratch.dqkv.col_range(0, n);
  auto [dq, dk, dv] = split_qkv(shape, dqkv);
  ops.attention_backward(shape, batch.cu_seqlens, q, k, v, saved.attn.col_range(0, w.o.k()), saved.lse,
                         scratch.dattn, dq, dk, dv, {batch.positions, rope_table});
  w.qkv.fill_gradient_tail(ops, scratch.dqkv);

  if (g.qkv.wanted()) {
    // the normed input is rebuilt rather than kept: cheaper to compute than to store
    ops.norm(saved.x, w.norm, eps, w.qkv.a(), scratch.xn, saved.rstd);
    accumulate_gradients(ops, g.qkv, scratch.xn, scratch.dqkv, n, w.qkv.k());
  }
  if (!want_dx && !g.norm) return;
  w.qkv.backward_input(ops, scratch.dqkv, scratch.dxn);
  ops.norm_backward(scratch.dxn, saved.x, w.norm, saved.rstd, {}, dx, g.norm);
}

}  // namespace llmft
