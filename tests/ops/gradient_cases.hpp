// Every backward op against derivatives of the fp64 forward oracles by central differences: no formula of a
// gradient is shared with what is tested. For every backend, in f32.
#pragma once

#include <functional>

#include "ops/op_cases.hpp"

namespace llmft::test {

// d f / d x. The step 1e-5 leaves about 1e-10 of truncation and 1e-11 of rounding for values of size 1.
inline Matrix numeric_gradient(const Matrix& x, const std::function<double(const Matrix&)>& f) {
  constexpr double step = 1e-5;
  Matrix gradient(x.rows, x.cols), at = x;
  for (size_t i = 0; i < x.values.size(); ++i) {
    at.values[i] = x.values[i] + step;
    double above = f(at);
    at.values[i] = x.values[i] - step;
    gradient.values[i] = (above - f(at)) / (2 * step);
    at.values[i] = x.values[i];
  }
  return gradient;
}

inline double inner(const Matrix& x, const Matrix& y) {
  double total = 0;
  for (size_t i = 0; i < x.values.size(); ++i) total += x.values[i] * y.values[i];
  return total;
}

inline Matrix in_f32(const Matrix& x) {
  return x.map([](double value) { return rounded_to(DType::f32, value); });
}

inline void gradient_embed(OpTest& t) {
  Matrix table = t.normal(7, 5), dx = t.normal(20, 5);
  auto ids = t.integers(20, 7);
  Tensor dtable = t.in_place(Matrix(7, 5));
  t.ops.embed_backward(t.indices(ids), t.input(dx), dtable);
  t.expect("dtable", dtable,
           numeric_gradient(table, [&](const Matrix& at) { return inner(oracle::gather(at, ids), dx); }));
}

inline void gradient_gather(OpTest& t) {
  Matrix x = t.normal(9, 5), dy = t.normal(3, 5);
  std::vector<int32_t> rows = {8, 0, 4};
  Tensor dx = t.output(9, 5);
  t.ops.scatter_rows(t.input(dy), t.indices(rows), dx);
  t.expect("dx", dx,
           numeric_gradient(x, [&](const Matrix& at) { return inner(oracle::gather(at, rows), dy); }));
  // and the other way round: the gradient of scatter is gather
  Matrix y = t.normal(3, 5), dback = t.normal(9, 5);
  Tensor dy_out = t.output(3, 5);
  t.ops.gather_rows(t.input(dback), t.indices(rows), dy_out);
  t.expect("dy", dy_out, numeric_gradient(y, [&](const Matrix& at) {
             return inner(oracle::scatter_add(at, rows, 9), dback);
           }));
}

inline void gradient_norm(OpTest& t) {
  constexpr float eps = 1e-3f;
  Matrix x = t.normal(6, 11), w = t.normal(1, 11), dy = t.normal(6, 11);
  Tensor dx = t.in_place(Matrix(6, 11)), dw = t.in_place(Matrix(1, 11));
  t.ops.norm_backward(t.input(dy), t.input(x), t.input(w), t.input(in_f32(oracle::norm_rstd(x, eps))), {}, dx,
                      dw);
  t.expect("dx", dx,
           numeric_gradient(x, [&](const Matrix& at) { return inner(oracle::norm(at, w, eps), dy); }));
  t.expect("dw", dw,
           numeric_gradient(w, [&](const Matrix& at) { return inner(oracle::norm(x, at, eps), dy); }));
}

inline void gradient_rope(OpTest& t) {
  Matrix x = t.normal(5, 2 * 6), dy = t.normal(5, 2 * 6), table(9, 6);
  for (int64_t p = 0; p < 9; ++p)
    for (int64_t i = 0; i < 3; ++i) {
      table(p, i) = rounded_to(DType::f32, std::cos(0.3 * static_cast<double>(p * (i + 1))));
      table(p, 3 + i) = rounded_to(DType::f32, std::sin(0.3 * static_cast<double>(p * (i + 1))));
    }
  auto positions = t.integers(5, 9);
  Tensor dx = t.in_place(dy);
  t.ops.rope(dx, t.indices(positions), t.input(table), Direction::backward);
  t.expect("dx", dx, numeric_gradient(x, [&](const Matrix& at) {
             return inner(oracle::rope(at, positions, table, Direction::forward), dy);
           }));
}

inline void gradient_attention(OpTest& t) {
  AttentionPack p{{4, 2, 6}, {0, 1, 8, 13}};
  Matrix q = t.normal(13, p.q_width()), k = t.normal(13, p.kv_width()), v = t.normal(13, p.kv_width());
  Matrix dout = t.normal(13, p.q_width());
  auto loss = [&](const Matrix& q_at, const Matrix& k_at, const Matrix& v_at) {
    return inner(oracle::attention(p.shape, p.cu_seqlens, q_at, k_at, v_at).out, dout);
  };
  auto forward = oracle::attention(p.shape, p.cu_seqlens, q, k, v);
  Tensor dq = t.output(13, p.q_width()), dk = t.output(13, p.kv_width()), dv = t.output(13, p.kv_width());
  t.ops.attention_backward(p.shape, t.indices(p.cu_seqlens), t.input(q), t.input(k), t.input(v),
                           t.input(in_f32(forward.out)), t.input(in_f32(forward.lse)), t.input(dout), dq, dk,
                           dv);
  t.expect("dq", dq, numeric_gradient(q, [&](const Matrix& at) { return loss(at, k, v); }));
  t.expect("dk", dk, numeric_gradient(k, [&](const Matrix& at) { return loss(q, at, v); }));
  t.expect("dv", dv, numeric_gradient(v, [&](const Matrix& at) { return loss(q, k, at); }));
}

inline void gradient_swiglu(OpTest& t) {
  Matrix gate_up = t.normal(4, 2 * 9, 2), dh = t.normal(4, 9);
  Tensor gradient = t.in_place(gate_up);
  t.ops.swiglu_backward(t.input(dh), gradient, {});
  t.expect("gate_up", gradient,
           numeric_gradient(gate_up, [&](const Matrix& at) { return inner(oracle::swiglu(at), dh); }));
}

inline void gradient_cross_entropy(OpTest& t) {
  Matrix logits = t.normal(5, 23, 2);
  auto targets = t.integers(5, 23);
  Tensor gradient = t.in_place(logits), loss = t.output(1, 5);
  t.ops.cross_entropy(gradient, t.indices(targets), 0.25f, loss, LossMode::loss_and_gradient);
  t.expect("logits", gradient, numeric_gradient(logits, [&](const Matrix& at) {
             return 0.25 * inner(oracle::cross_entropy(at, targets), Matrix(1, 5, 1));
           }));
}

// y = x W^T + (x A^T) (sB)^T as the products of the extended matrices, and all its gradients (ops.hpp).
inline void gradient_linear_with_adapter(OpTest& t) {
  constexpr int64_t tokens = 6, in = 7, out = 5, rank = 3;
  Matrix x = t.normal(tokens, in), w = t.normal(out, in), a = t.normal(rank, in), sb = t.normal(out, rank);
  Matrix dy = t.normal(tokens, out);
  auto linear = [](const Matrix& x_at, const Matrix& w_at, const Matrix& a_at, const Matrix& sb_at) {
    Matrix y = oracle::matmul(Layout::nt, x_at, w_at);
    Matrix tail = oracle::matmul(Layout::nt, oracle::matmul(Layout::nt, x_at, a_at), sb_at);
    for (size_t i = 0; i < y.values.size(); ++i) y.values[i] += tail.values[i];
    return y;
  };
  auto loss = [&](const Matrix& x_at, const Matrix& w_at, const Matrix& a_at, const Matrix& sb_at) {
    return inner(linear(x_at, w_at, a_at, sb_at), dy);
  };
  Matrix extended(out + rank, in + rank), x_columns(tokens, in + rank), dy_columns(tokens, out + rank);
  extended.put(0, 0, w);
  extended.put(0, in, sb);
  extended.put(out, 0, a);
  x_columns.put(0, 0, x);
  dy_columns.put(0, 0, dy);

  Tensor w_ext = t.input(extended), x_ext = t.in_place(x_columns), dy_ext = t.in_place(dy_columns);
  Tensor y = t.output(tokens, out), dx = t.output(tokens, in), dw = t.output(out, in),
         da = t.output(rank, in);
  Tensor dsb = t.output(out, rank);
  Tensor a_rows = w_ext.row_range(out, rank).col_range(0, in),
         b_columns = w_ext.row_range(0, out).col_range(in, rank);
  Tensor x_in = x_ext.col_range(0, in), x_tail = x_ext.col_range(in, rank);
  Tensor dy_in = dy_ext.col_range(0, out), dy_tail = dy_ext.col_range(out, rank);
  t.ops.matmul(Layout::nt, x_in, a_rows, x_tail);
  t.ops.matmul(Layout::nt, x_ext, w_ext.row_range(0, out), y);
  t.ops.matmul(Layout::nn, dy_in, b_columns, dy_tail);
  t.ops.matmul(Layout::nn, dy_ext, w_ext.col_range(0, in), dx);
  t.ops.matmul(Layout::tn, dy_in, x_in, dw);
  t.ops.matmul(Layout::tn, dy_tail, x_in, da);
  t.ops.matmul(Layout::tn, dy_in, x_tail, dsb);

  t.expect("y", y, linear(x, w, a, sb));
  t.expect("dx", dx, numeric_gradient(x, [&](const Matrix& at) { return loss(at, w, a, sb); }));
  t.expect("dW", dw, numeric_gradient(w, [&](const Matrix& at) { return loss(x, at, a, sb); }));
  t.expect("dA", da, numeric_gradient(a, [&](const Matrix& at) { return loss(x, w, at, sb); }));
  t.expect("d(sB)", dsb, numeric_gradient(sb, [&](const Matrix& at) { return loss(x, w, a, at); }));
}

inline const std::vector<OpCase>& gradient_cases() {
  static const std::vector<OpCase> cases = {
      {"embed_backward", gradient_embed},         {"scatter_rows, gather_rows", gradient_gather},
      {"norm_backward", gradient_norm},           {"rope backward", gradient_rope},
      {"attention_backward", gradient_attention}, {"swiglu_backward", gradient_swiglu},
      {"cross_entropy", gradient_cross_entropy},  {"linear with adapter tail", gradient_linear_with_adapter}};
  return cases;
}

}  // namespace llmft::test
