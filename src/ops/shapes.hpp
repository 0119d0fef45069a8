// What every backend asks of an op's arguments, so that all refuse the same with the same words. Contents
// (tokens, positions, targets inside their tables) are each backend's own: a GPU's are not on the host.
#pragma once

#include "llmft/ops/ops.hpp"

namespace llmft::shapes {

void embed(Indices tokens, const Tensor& table, const Tensor& x);
void embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable);
void norm(const Tensor& x, const Tensor& w, const Tensor& a, const Tensor& y, const Tensor& rstd);
void norm_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& rstd, const Tensor& b,
                   const Tensor& dx, const Tensor& dw);
void matmul(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float beta, const Tensor& c);
void rope(const Tensor& x, Indices positions, const Tensor& table);
void attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
               const Tensor& v, const Tensor& out, const Tensor& lse);
void attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& dout,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv);
void swiglu(const Tensor& gate_up, const Tensor& h);
void swiglu_backward(const Tensor& dh, const Tensor& gate_up, const Tensor& h);
void gather_rows(const Tensor& x, Indices rows, const Tensor& y);
void scatter_rows(const Tensor& y, Indices rows, const Tensor& x);
void cross_entropy(const Tensor& logits, Indices targets, const Tensor& loss);
void convert(const Tensor& from, const Tensor& to);
void add(const Tensor& from, const Tensor& to);
void chunk_sum_squares(const Tensor& x, int64_t chunk, const Tensor& out);
void sum(const Tensor& x, const Tensor& out);
void advance_update(const Tensor& sum_squares, const Tensor& state);
void adamw(const Tensor& state, const Tensor& p, const Tensor& m, const Tensor& v, const Tensor& grad,
           const Tensor& copy);

}  // namespace llmft::shapes
