// THE table of op cases, for every backend: fresh random inputs, odd and empty shapes, results against the
// fp64 oracle. A result is allowed one rounding to its dtype and what f32 arithmetic adds (OpTest's slacks).
#pragma once

#include <array>

#include "ops/op_test.hpp"

namespace llmft::test {

inline void test_embed(OpTest& t) {
  for (int64_t tokens : {0, 1, 37}) {
    Matrix table = t.normal(50, 19);
    auto ids = t.integers(tokens, 50);
    Tensor x = t.output(tokens, 19);
    t.ops.embed(t.indices(ids), t.input(table), x);
    t.expect_exactly("x", x, oracle::gather(table, ids));
  }
}

inline void check_embed_backward(OpTest& t, int64_t tokens, int64_t vocabulary, int64_t width) {
  Matrix dx = t.normal(tokens, width), before = t.normal_of(DType::f32, vocabulary, width), want = before;
  auto ids = t.integers(tokens, vocabulary);
  Tensor dtable = t.in_place_of(DType::f32, before);
  t.ops.embed_backward(t.indices(ids), t.input(dx), dtable);
  Matrix added = oracle::scatter_add(dx, ids, vocabulary);
  for (size_t i = 0; i < want.values.size(); ++i) want.values[i] += added.values[i];
  t.expect("dtable", dtable, want);
}

inline void test_embed_backward(OpTest& t) {
  for (int64_t tokens : {0, 1, 200}) check_embed_backward(t, tokens, 50, 19);  // most come more than once
}

inline void check_norm(OpTest& t, int64_t tokens, int64_t width, int64_t tail) {
  constexpr float eps = 1e-5f;
  Matrix x = t.normal(tokens, width, 3), w = t.normal(1, width), a = t.normal(tail, width, 0.2);
  Tensor y = t.output(tokens, width + tail), rstd = t.output_of(DType::f32, 1, tokens);
  t.ops.norm(t.input(x), t.input(w), eps, tail == 0 ? Tensor{} : t.input(a), y, rstd);
  t.expect("xn", y.col_range(0, width), oracle::norm(x, w, eps));
  t.expect("rstd", rstd, oracle::norm_rstd(x, eps));
  Matrix xn = t.read(y.col_range(0, width));
  t.expect("tail", y.col_range(width, tail), oracle::matmul(Layout::nt, xn, a), {.slack = t.matmul_slack});
}

constexpr std::array<std::array<int64_t, 3>, 5> kNormShapes = {
    {{0, 16, 2}, {1, 1, 0}, {37, 67, 0}, {37, 67, 5}, {8, 128, 16}}};

inline void test_norm(OpTest& t) {
  for (auto [tokens, width, tail] : kNormShapes) check_norm(t, tokens, width, tail);
}

inline void check_norm_backward(OpTest& t, int64_t tokens, int64_t width, int64_t tail) {
  Matrix x = t.normal(tokens, width, 3), w = t.normal(1, width), dy = t.normal(tokens, width);
  Matrix b = t.normal(width, tail, 0.2), before = t.normal(tokens, width + tail);
  Matrix dw_before = t.normal_of(DType::f32, 1, width);
  Matrix rstd = oracle::norm_rstd(x, 1e-5).map([](double r) { return rounded_to(DType::f32, r); });
  auto want = oracle::norm_backward(dy, x, w, rstd);
  Matrix scaled = dy;
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t c = 0; c < width; ++c) scaled(i, c) *= w[c] * rstd[i];
  double dx_terms = norm_of(scaled) + norm_of(before);
  double dw_terms = norm_of(want.dw) + norm_of(dw_before);
  for (int64_t i = 0; i < tokens; ++i)
    for (int64_t c = 0; c < width; ++c) want.dx(i, c) += before(i, c);
  for (int64_t c = 0; c < width; ++c) want.dw[c] += dw_before[c];

  Tensor dw = t.in_place_of(DType::f32, dw_before);
  for (const Tensor& dw_wanted : {dw, Tensor{}}) {
    Tensor dx = t.in_place(before);
    t.ops.norm_backward(t.input(dy), t.input(x), t.input(w), t.input_of(DType::f32, rstd),
                        tail == 0 ? Tensor{} : t.input(b), dx, dw_wanted);
    t.expect("dx", dx.col_range(0, width), want.dx, {.slack = t.f32_slack, .terms = dx_terms});
    t.expect("tail", dx.col_range(width, tail), oracle::matmul(Layout::nn, t.read(dx.col_range(0, width)), b),
             {.slack = t.matmul_slack});
  }
  t.expect("dw", dw, want.dw, {.slack = t.f32_slack, .terms = dw_terms});
}

inline void test_norm_backward(OpTest& t) {
  for (auto [tokens, width, tail] : kNormShapes) check_norm_backward(t, tokens, width, tail);
}

inline double squared(double x) {
  return x * x;
}

inline void check_matmul(OpTest& t, int64_t m, int64_t n, int64_t k) {
  struct Scale {
    float alpha, beta;
    bool c_is_d;
  };
  for (Layout layout : {Layout::nt, Layout::nn, Layout::tn})
    for (Scale s : {Scale{1, 0, true}, Scale{1, 1, true}, Scale{0.7f, -0.5f, false}})
      for (DType out : {t.dtype, DType::f32}) {
        INFO(fmt::format("m {} n {} k {}, layout {}, alpha {}, beta {}, out {}", m, n, k,
                         static_cast<int>(layout), s.alpha, s.beta, name_of(out)));
        Matrix a = layout == Layout::tn ? t.normal(k, m) : t.normal(m, k);
        Matrix b = layout == Layout::nt ? t.normal(n, k) : t.normal(k, n);
        Matrix c = t.normal_of(out, m, n, 3), want = oracle::matmul(layout, a, b);
        Matrix terms = oracle::matmul(layout, a.map(squared), b.map(squared));
        for (size_t i = 0; i < want.values.size(); ++i) {
          double alpha = double{s.alpha}, beta = double{s.beta};
          want.values[i] = alpha * want.values[i] + beta * c.values[i];
          terms.values[i] = std::hypot(alpha * std::sqrt(terms.values[i]), beta * c.values[i]);
        }
        Tensor d = s.beta != 0 && s.c_is_d ? t.in_place_of(out, c) : t.output_of(out, m, n);
        Tensor from = s.beta == 0 ? Tensor{} : s.c_is_d ? d : t.input_of(out, c);
        t.ops.matmul(layout, t.input(a), t.input(b), d, s.alpha, s.beta, from);
        t.expect("d", d, want, {.slack = t.matmul_slack, .terms = norm_of(terms)});
      }
}

inline void test_matmul(OpTest& t) {
  for (auto [m, n, k] : {std::array{1, 1, 1},
                         {1, 40, 33},
                         {40, 1, 33},
                         {5, 7, 3},
                         {33, 65, 129},
                         {64, 48, 80},
                         {0, 5, 4},
                         {6, 5, 0}})
    check_matmul(t, m, n, k);
}

inline Matrix angle_table(int64_t positions, int64_t dim) {
  Matrix table(positions, dim);
  for (int64_t p = 0; p < positions; ++p)
    for (int64_t i = 0; i < dim / 2; ++i) {
      double angle = static_cast<double>(p) * std::pow(500.0, -2.0 * static_cast<double>(i) / dim);
      table(p, i) = rounded_to(DType::f32, std::cos(angle));
      table(p, dim / 2 + i) = rounded_to(DType::f32, std::sin(angle));
    }
  return table;
}

inline void check_rope(OpTest& t, int64_t tokens, int64_t heads, int64_t dim) {
  for (Direction direction : {Direction::forward, Direction::backward}) {
    Matrix x = t.normal(tokens, heads * dim), table = angle_table(40, dim);
    auto positions = t.integers(tokens, table.rows);
    Tensor rotated = t.in_place(x);
    t.ops.rope(rotated, t.indices(positions), t.input_of(DType::f32, table), direction);
    t.expect("x", rotated, oracle::rope(x, positions, table, direction));
  }
}

inline void test_rope(OpTest& t) {
  for (auto [tokens, heads, dim] : {std::array{0, 2, 4}, {1, 1, 2}, {37, 3, 10}, {16, 4, 64}})
    check_rope(t, tokens, heads, dim);
}

struct AttentionPack {
  AttentionShape shape;
  std::vector<int32_t> cu_seqlens;
  int64_t tokens() const { return cu_seqlens.back(); }
  int64_t q_width() const { return shape.heads * shape.head_dim; }
  int64_t kv_width() const { return shape.kv_heads * shape.head_dim; }
};

// Documents of one token, of none, and of more than one block of 64 queries; grouped and equal heads.
inline std::vector<AttentionPack> attention_packs(int64_t most_tokens) {
  std::vector<AttentionPack> packs = {{{1, 1, 1}, {0, 1}},
                                      {{4, 2, 8}, {0, 1, 2, 9, 9, 40}},
                                      {{3, 3, 5}, {0, 63, 64, 129}},
                                      {{4, 1, 32}, {0, 150, 220}},
                                      {{8, 2, 64}, {0, 5, 6, 90, 160, 177}},
                                      {{4, 4, 64}, {0, 1, 2, 3, 300}},
                                      {{4, 1, 128}, {0, 1, 130, 161, 193}},
                                      {{2, 1, 64}, {0}}};
  std::erase_if(packs, [&](const AttentionPack& p) { return p.tokens() > most_tokens; });
  return packs;
}

inline void test_attention(OpTest& t) {
  for (const AttentionPack& p : attention_packs(t.most_attention_tokens))
    for (double scale : {1.0, 4.0}) {  // 4: scores of size 16 sqrt(D), all weight on a few keys
      Matrix q = t.normal(p.tokens(), p.q_width(), scale), k = t.normal(p.tokens(), p.kv_width(), scale);
      Matrix v = t.normal(p.tokens(), p.kv_width());
      Tensor out = t.output(p.tokens(), p.q_width());
      Tensor lse = t.output_of(DType::f32, p.tokens(), p.shape.heads);
      t.ops.attention(p.shape, t.indices(p.cu_seqlens), t.input(q), t.input(k), t.input(v), out, lse);
      auto want = oracle::attention(p.shape, p.cu_seqlens, q, k, v);
      // a score of size s is off by up to s 2^-24 and so is its exponential, relatively
      double slack = t.attention_slack * scale * scale;
      t.expect("out", out, want.out, {.roundings = t.attention_roundings, .slack = slack});
      t.expect("lse", lse, want.lse, {.slack = slack});
    }
}

inline void test_attention_backward(OpTest& t) {
  for (const AttentionPack& p : attention_packs(t.most_attention_tokens)) {
    Matrix q = t.normal(p.tokens(), p.q_width()), k = t.normal(p.tokens(), p.kv_width());
    Matrix v = t.normal(p.tokens(), p.kv_width()), dout = t.normal(p.tokens(), p.q_width());
    auto forward = oracle::attention(p.shape, p.cu_seqlens, q, k, v);
    Matrix out = forward.out.map([&](double x) { return rounded_to(t.dtype, x); });
    Matrix lse = forward.lse.map([](double x) { return rounded_to(DType::f32, x); });
    Tensor dq = t.output(p.tokens(), p.q_width()), dk = t.output(p.tokens(), p.kv_width());
    Tensor dv = t.output(p.tokens(), p.kv_width());
    t.ops.attention_backward(p.shape, t.indices(p.cu_seqlens), t.input(q), t.input(k), t.input(v),
                             t.input(out), t.input_of(DType::f32, lse), t.input(dout), dq, dk, dv);
    auto want = oracle::attention_backward(p.shape, p.cu_seqlens, q, k, v, out, lse, dout);
    // a lone token's dp - rowsum(dout out) cancels to nothing
    double lone = p.tokens() == 1 ? norm_of(dout) * norm_of(v) : 0;
    OpTest::Allow allow{.roundings = t.attention_roundings, .slack = 2 * t.attention_slack, .terms = lone};
    t.expect("dq", dq, want.dq, allow);
    t.expect("dk", dk, want.dk, allow);
    t.expect("dv", dv, want.dv, allow);
    if (p.shape.head_dim % 2 != 0) continue;

    auto positions = t.integers(p.tokens(), 50);
    Matrix table = angle_table(50, p.shape.head_dim);
    Rotation rotation{t.indices(positions), t.input_of(DType::f32, table)};
    Tensor dq_before = t.output(p.tokens(), p.q_width()), dk_before = t.output(p.tokens(), p.kv_width());
    Tensor dv_again = t.output(p.tokens(), p.kv_width());
    t.ops.attention_backward(p.shape, t.indices(p.cu_seqlens), t.input(q), t.input(k), t.input(v),
                             t.input(out), t.input_of(DType::f32, lse), t.input(dout), dq_before, dk_before,
                             dv_again, rotation);
    allow.roundings += 1;
    t.expect("dq before RoPE", dq_before, oracle::rope(want.dq, positions, table, Direction::backward),
             allow);
    t.expect("dk before RoPE", dk_before, oracle::rope(want.dk, positions, table, Direction::backward),
             allow);
    t.expect("dv again", dv_again, want.dv, allow);
  }
}

// What one document gets does not depend on its neighbours, bit for bit, and its outputs send them no
// gradient.
inline void test_attention_isolation(OpTest& t) {
  AttentionPack p{{4, 2, 16}, {0, 5, 6, 90, 160, 177}};
  for (size_t document = 0; document + 1 < p.cu_seqlens.size(); ++document) {
    int64_t begin = p.cu_seqlens[document], count = p.cu_seqlens[document + 1] - begin;
    auto of_document = [&](const Matrix& x) { return x.row_range(begin, count).values; };
    Matrix q = t.normal(p.tokens(), p.q_width()), k = t.normal(p.tokens(), p.kv_width());
    Matrix v = t.normal(p.tokens(), p.kv_width()), dout(p.tokens(), p.q_width());
    dout.put(begin, 0, t.normal(count, p.q_width()));
    Matrix first[5];
    for (int round = 0; round < 2; ++round) {
      if (round == 1)  // other neighbours, far larger
        for (Matrix* x : {&q, &k, &v}) {
          Matrix other = t.normal(x->rows, x->cols, 50);
          other.put(begin, 0, x->row_range(begin, count));
          *x = other;
        }
      Tensor q_in = t.input(q), k_in = t.input(k), v_in = t.input(v), out = t.output(p.tokens(), p.q_width());
      Tensor lse = t.output_of(DType::f32, p.tokens(), p.shape.heads), dq = t.output(p.tokens(), p.q_width());
      Tensor dk = t.output(p.tokens(), p.kv_width()), dv = t.output(p.tokens(), p.kv_width());
      Indices cu_seqlens = t.indices(p.cu_seqlens);
      t.ops.attention(p.shape, cu_seqlens, q_in, k_in, v_in, out, lse);
      t.ops.attention_backward(p.shape, cu_seqlens, q_in, k_in, v_in, out, lse, t.input(dout), dq, dk, dv);
      int index = 0;
      for (const Tensor& x : {out, lse, dq, dk, dv}) {
        Matrix now = t.read(x);
        if (round == 0) first[index] = now;
        CHECK(of_document(now) == of_document(first[index]));
        ++index;
      }
      for (const Tensor& gradient : {dq, dk, dv}) {
        Matrix now = t.read(gradient);
        int64_t nonzero = 0;
        for (int64_t row = 0; row < now.rows; ++row)
          for (int64_t c = 0; c < now.cols; ++c)
            nonzero += (row < begin || row >= begin + count) && now(row, c) != 0;
        CHECK(nonzero == 0);
      }
    }
  }
}

inline void check_swiglu(OpTest& t, int64_t tokens, int64_t width) {
  Matrix gate_up = t.normal(tokens, 2 * width, 5), dh = t.normal(tokens, width);
  Tensor h = t.output(tokens, width);
  t.ops.swiglu(t.input(gate_up), h);
  t.expect("h", h, oracle::swiglu(gate_up));

  Tensor rebuilt = t.output(tokens, width);
  for (const Tensor& h_wanted : {rebuilt, Tensor{}}) {
    Tensor gradient = t.in_place(gate_up);
    t.ops.swiglu_backward(t.input(dh), gradient, h_wanted);
    t.expect("gate_up", gradient, oracle::swiglu_backward(dh, gate_up));
  }
  t.expect("rebuilt h", rebuilt, oracle::swiglu(gate_up));
}

inline void test_swiglu(OpTest& t) {
  for (auto [tokens, width] : {std::array{0, 8}, {1, 1}, {37, 67}, {8, 128}}) check_swiglu(t, tokens, width);
}

// dh is rounded on its way, so gradients carry two roundings.
inline void check_matmul_swiglu(OpTest& t, int64_t tokens, int64_t width, int64_t inner) {
  INFO(fmt::format("T {} F {} K {}", tokens, width, inner));
  double scale = 2 / std::sqrt(static_cast<double>(std::max<int64_t>(inner, 1)));
  Matrix x = t.normal(tokens, inner), w = t.normal(2 * width, inner, scale);
  Tensor gate_up = t.output(tokens, 2 * width), h = t.output(tokens, width);
  t.ops.matmul_swiglu(t.input(x), t.input(w), gate_up, h);
  OpTest::Allow sums{
      .slack = t.matmul_slack,
      .terms = norm_of(oracle::matmul(Layout::nt, x.map(squared), w.map(squared)).map([](double v) {
        return std::sqrt(v);
      }))};
  t.expect("gate_up", gate_up, oracle::matmul(Layout::nt, x, w), sums);
  t.expect("h", h, oracle::swiglu(t.read(gate_up)));

  Matrix before = t.normal(tokens, 2 * width, 2), down = t.normal(inner, width, scale);
  Matrix dh = oracle::matmul(Layout::nn, x, down), want = oracle::swiglu_backward(dh, before);
  Tensor rebuilt = t.output(tokens, width);
  for (const Tensor& h_wanted : {rebuilt, Tensor{}}) {
    Tensor gradient = t.in_place(before), scratch = t.in_place(Matrix(tokens, width));
    t.ops.matmul_swiglu_backward(t.input(x), t.input(down), gradient, scratch, h_wanted);
    t.expect("gradient", gradient, want,
             {.roundings = 2, .slack = 10 * t.matmul_slack + 2 * t.f32_slack, .terms = norm_of(want)});
  }
  t.expect("rebuilt h", rebuilt, oracle::swiglu(before));
}

inline void test_matmul_swiglu(OpTest& t) {
  for (auto [tokens, width, inner] : {std::array{0, 8, 8}, {1, 1, 1}, {37, 67, 19}, {5, 128, 64}})
    check_matmul_swiglu(t, tokens, width, inner);
}

inline void check_gather_scatter(OpTest& t, int64_t width) {
  Matrix x = t.normal(50, width);
  for (const std::vector<int32_t>& rows : {std::vector<int32_t>{}, {49}, {3, 0, 49, 17, 18}}) {
    auto count = static_cast<int64_t>(rows.size());
    Tensor y = t.output(count, width), back = t.output(50, width);
    t.ops.gather_rows(t.input(x), t.indices(rows), y);
    t.expect_exactly("y", y, oracle::gather(x, rows));
    Matrix gradient = t.normal(count, width);
    t.ops.scatter_rows(t.input(gradient), t.indices(rows), back);
    t.expect_exactly("x", back, oracle::scatter_add(gradient, rows, 50));
  }
}

inline void test_gather_scatter(OpTest& t) {
  check_gather_scatter(t, 19);
}

inline void check_cross_entropy(OpTest& t, int64_t rows, int64_t classes) {
  for (DType type : {t.dtype, DType::f32})
    for (double offset : {0.0, 30000.0}) {  // an offset common to a row changes nothing
      Matrix logits =
          t.normal_of(type, rows, classes, 4).map([&](double x) { return rounded_to(type, x + offset); });
      auto targets = t.integers(rows, classes);
      constexpr float scale = 0.37f;
      Tensor alone = t.output_of(DType::f32, 1, rows), loss = t.output_of(DType::f32, 1, rows);
      Tensor gradient = t.in_place_of(type, logits);
      t.ops.cross_entropy(t.input_of(type, logits), t.indices(targets), scale, alone, LossMode::loss_only);
      t.ops.cross_entropy(gradient, t.indices(targets), scale, loss, LossMode::loss_and_gradient);
      Matrix want = oracle::cross_entropy(logits, targets);
      t.expect("loss alone", alone, want);
      t.expect("loss", loss, want);
      t.expect("logits", gradient, oracle::cross_entropy_gradient(logits, targets, double{scale}));
    }
}

inline void test_cross_entropy(OpTest& t) {
  for (auto [rows, classes] : {std::array{0, 9}, {1, 1}, {13, 1001}, {37, 67}})
    check_cross_entropy(t, rows, classes);
}

inline void check_convert(OpTest& t, int64_t rows, int64_t cols) {
  for (DType to : {DType::f32, DType::bf16, DType::f16})
    for (float scale : {1.0f, -0.3f}) {
      Matrix x = t.normal(rows, cols);
      Tensor y = t.output_of(to, rows, cols);
      t.ops.convert(t.input(x), y, scale);
      t.expect_exactly("y", y,
                       x.map([&](double v) { return rounded_to(to, static_cast<float>(v) * scale); }));
    }
}

inline void test_convert(OpTest& t) {
  for (auto [rows, cols] : {std::array{0, 3}, {1, 1}, {5, 37}, {1, 9001}}) check_convert(t, rows, cols);
}

// Some of whole vectors, some not, more than one launch takes.
inline void test_convert_each(OpTest& t) {
  for (DType to : {DType::f32, DType::bf16, DType::f16}) {
    std::vector<Conversion> list;
    std::vector<Matrix> wanted;
    for (int i = 0; i < 70; ++i) {
      auto [rows, cols] = std::array<std::array<int64_t, 2>, 4>{{{16, 8}, {3, 40}, {2, 5}, {0, 8}}}[i % 4];
      float scale = i % 3 == 0 ? 1.0f : -0.3f;
      Matrix x = t.normal_of(DType::f32, rows, cols);
      list.push_back({t.input_of(DType::f32, x), t.output_of(to, rows, cols), scale});
      wanted.push_back(x.map([&](double v) { return rounded_to(to, static_cast<float>(v) * scale); }));
    }
    t.ops.convert_each(list);
    for (size_t i = 0; i < list.size(); ++i) t.expect_exactly("to", list[i].to, wanted[i]);
    t.ops.convert_each({});
  }
}

// The rest works on f32 alone and is run in whatever dtype the test has.
inline void check_add(OpTest& t, int64_t rows, int64_t cols) {
  Matrix x = t.normal_of(DType::f32, rows, cols), y = t.normal_of(DType::f32, rows, cols), want = y;
  Tensor sum = t.in_place_of(DType::f32, y);
  t.ops.add(t.input_of(DType::f32, x), sum);
  for (size_t i = 0; i < want.values.size(); ++i)
    want.values[i] = rounded_to(DType::f32, want.values[i] + x.values[i]);
  t.expect_exactly("to", sum, want);
}

inline void test_add(OpTest& t) {
  for (auto [rows, cols] : {std::array{0, 3}, {1, 1}, {5, 37}}) check_add(t, rows, cols);
}

// What an op writes to f64 numbers on the device.
template <class F>
std::vector<double> numbers_from(Ops& ops, int64_t count, F&& f) {
  std::vector<double> values(static_cast<size_t>(count), -1.0);
  size_t bytes = values.size() * sizeof(double);
  Buffer buffer(ops.device(), std::max<size_t>(bytes, 8), MemoryPart::workspace);
  f(buffer.view(DType::f64, 1, count));
  ops.device().copy_to_host(values.data(), buffer.data(), bytes);
  ops.device().synchronize();
  return values;
}

inline double sum_on(Ops& ops, const Tensor& x) {
  return numbers_from(ops, 1, [&](const Tensor& out) { ops.sum(x, out); })[0];
}

inline std::vector<double> chunk_sums_on(Ops& ops, const Tensor& x, int64_t chunk) {
  return numbers_from(ops, (x.numel() + chunk - 1) / chunk,
                      [&](const Tensor& out) { ops.chunk_sum_squares(x, chunk, out); });
}

inline void check_sums(OpTest& t, int64_t size, int64_t chunk) {
  Matrix x = t.normal_of(DType::f32, 1, size);
  Tensor on_device = t.input_of(DType::f32, x);
  double total = 0, scale = 0;
  for (double v : x.values) {
    total += v;
    scale += std::abs(v);
  }
  CHECK(std::abs(sum_on(t.ops, on_device) - total) <= 1e-13 * scale);  // f64 sums differ in order alone
  std::vector<double> squares = chunk_sums_on(t.ops, on_device, chunk);
  for (size_t i = 0; i < squares.size(); ++i) {
    double want = 0;
    for (int64_t j = static_cast<int64_t>(i) * chunk; j < std::min(size, static_cast<int64_t>(i + 1) * chunk);
         ++j)
      want += x[j] * x[j];
    CHECK(std::abs(squares[i] - want) <= 1e-13 * want);
  }
}

inline void test_sums(OpTest& t) {
  for (int64_t size : {0, 1, 15, 1000, 4099}) check_sums(t, size, 512);
}

inline Buffer update_state_on(Ops& ops, const UpdateState& state) {
  Buffer buffer(ops.device(), sizeof state, MemoryPart::workspace);
  ops.device().copy_to_device(buffer.data(), &state, sizeof state);
  ops.device().synchronize();
  return buffer;
}

inline void test_advance_update(OpTest& t) {
  UpdateRule rule{1.5, 0.9, 0.95, true, 2};
  UpdateState state;
  state.loss_scale = 1024;
  Buffer on_device = update_state_on(t.ops, state);
  constexpr double kHuge = 1e200;  // its square is not finite
  struct Step {
    double size;  // of the gradients without the loss scale
    double scale_after, good_after, updates_after, apply;
  };
  for (Step s : {Step{3, 1024, 1, 1, 1}, Step{0.5, 2048, 0, 2, 1}, Step{kHuge, 1024, 0, 2, 0},
                 Step{2, 1024, 1, 3, 1}}) {
    double used = state.loss_scale;
    std::vector<double> squares(1000, std::pow(s.size * used, 2) / 1000);
    Buffer sums(t.ops.device(), squares.size() * sizeof(double), MemoryPart::workspace);
    t.ops.device().copy_to_device(sums.data(), squares.data(), sums.bytes());
    t.ops.advance_update(rule, sums.view(DType::f64, 1, 1000), on_device.view(DType::f64, 1, kUpdateFields));
    t.ops.device().copy_to_host(&state, on_device.data(), sizeof state);
    t.ops.device().synchronize();
    CHECK(state.loss_scale == s.scale_after);
    CHECK(state.good_steps == s.good_after);
    CHECK(state.updates == s.updates_after);
    CHECK(state.apply == s.apply);
    if (s.apply == 0) continue;
    CHECK(state.norm == doctest::Approx(s.size).epsilon(1e-12));
    CHECK(state.grad_scale == doctest::Approx(std::min(1.0, 1.5 / s.size) / used).epsilon(1e-5));
    CHECK(state.correction1 == doctest::Approx(1 - std::pow(0.9, state.updates)).epsilon(1e-12));
    CHECK(state.correction2 == doctest::Approx(1 - std::pow(0.95, state.updates)).epsilon(1e-12));
  }
}

inline void test_adamw(OpTest& t) {
  for (int64_t size : {0, 1, 1003}) {
    Matrix p = t.normal_of(DType::f32, 1, size), m(1, size), v(1, size);
    double before = norm_of(p);
    Tensor p_dev = t.in_place_of(DType::f32, p), m_dev = t.in_place_of(DType::f32, m);
    Tensor v_dev = t.in_place_of(DType::f32, v);
    for (int step = 1; step <= 3; ++step) {
      Matrix grad = t.normal_of(DType::f32, 1, size, 0.1);
      AdamWParams a{1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f};
      UpdateState state;
      state.apply = 1;
      state.grad_scale = 0.5;
      state.correction1 = 1 - std::pow(double{a.beta1}, step);
      state.correction2 = 1 - std::pow(double{a.beta2}, step);
      Buffer state_dev = update_state_on(t.ops, state);
      Tensor copy = t.output(1, size), device_grad = t.input_of(DType::f32, grad);
      auto run = [&](const Tensor& to) {
        t.ops.adamw(a, state_dev.view(DType::f64, 1, kUpdateFields), p_dev, m_dev, v_dev, device_grad, to);
      };
      run(copy);
      t.expect_exactly("copy", copy, t.read(p_dev).map([&](double x) { return rounded_to(t.dtype, x); }));
      Matrix kept = t.read(p_dev);
      state.apply = 0;
      state_dev = update_state_on(t.ops, state);
      run({});
      t.expect_exactly("p of no update", p_dev, kept);
      for (int64_t i = 0; i < size; ++i) {
        double g = state.grad_scale * grad[i], lr = double{a.lr};
        p[i] -= lr * double{a.weight_decay} * p[i];
        m[i] = double{a.beta1} * m[i] + (1 - double{a.beta1}) * g;
        v[i] = double{a.beta2} * v[i] + (1 - double{a.beta2}) * g * g;
        p[i] -= lr * (m[i] / state.correction1) / (std::sqrt(v[i] / state.correction2) + double{a.eps});
      }
    }
    t.expect("p", p_dev, p, {.slack = t.f32_slack, .terms = before});
    t.expect("m", m_dev, m, {.slack = t.f32_slack, .terms = 0.01 * std::sqrt(static_cast<double>(size))});
    t.expect("v", v_dev, v);
  }
}

inline const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> cases = {{"embed", test_embed},
                                            {"embed_backward", test_embed_backward},
                                            {"norm", test_norm},
                                            {"norm_backward", test_norm_backward},
                                            {"matmul", test_matmul},
                                            {"rope", test_rope},
                                            {"attention", test_attention},
                                            {"attention_backward", test_attention_backward},
                                            {"attention between documents", test_attention_isolation},
                                            {"swiglu, swiglu_backward", test_swiglu},
                                            {"matmul_swiglu, its backward", test_matmul_swiglu},
                                            {"gather_rows, scatter_rows", test_gather_scatter},
                                            {"cross_entropy", test_cross_entropy},
                                            {"convert", test_convert},
                                            {"convert_each", test_convert_each},
                                            {"add", test_add},
                                            {"sum, chunk_sum_squares", test_sums},
                                            {"advance_update", test_advance_update},
                                            {"adamw", test_adamw}};
  return cases;
}

}  // namespace llmft::test
