// What the CPU backend promises beyond the formulas: it is the oracle that others are held to.
#include <cmath>
#include <limits>

#include "../../src/ops/cpu/exp.hpp"
#include "../../src/ops/cpu/lanes.hpp"
#include "ops/op_cases.hpp"

namespace {

using namespace llmft;
using namespace llmft::test;

struct Cpu {
  std::unique_ptr<Device> device = make_cpu_device();
  std::unique_ptr<Ops> ops;
  explicit Cpu(MatmulMode mode = MatmulMode::f32) : ops(make_cpu_ops(*device, mode, 1)) {}
};

std::vector<uint64_t> bits_of(const Matrix& x) {
  std::vector<uint64_t> bits;
  for (double value : x.values) bits.push_back(std::bit_cast<uint64_t>(value));
  return bits;
}

// Every op that writes S, on the same inputs held as `type`; the inputs are values of `narrow` in any case.
std::vector<Matrix> results_in(Ops& ops, DType type, DType narrow) {
  OpTest t(ops, narrow);  // draws the same numbers each time
  auto in = [&](const Matrix& x) { return t.input_of(type, x); };
  auto out = [&](int64_t rows, int64_t cols) { return t.output_of(type, rows, cols); };
  auto f32_out = [&](int64_t rows, int64_t cols) { return t.output_of(DType::f32, rows, cols); };
  std::vector<Tensor> written;

  Matrix x = t.normal(33, 65), w = t.normal(1, 65), dy = t.normal(33, 65);
  written.push_back(out(33, 65));
  Tensor rstd = f32_out(1, 33);
  ops.norm(in(x), in(w), 1e-5f, {}, written.back(), rstd);
  written.push_back(t.in_place_of(type, t.normal(33, 65)));
  ops.norm_backward(in(dy), in(x), in(w), rstd, {}, written.back(), {});

  written.push_back(out(33, 40));
  ops.matmul(Layout::nt, in(x), in(t.normal(40, 65)), written.back());
  written.push_back(t.in_place_of(type, t.normal(33, 20)));
  ops.matmul(Layout::nn, in(x), in(t.normal(65, 20)), written.back(), 0.5f, 1, written.back());

  written.push_back(t.in_place_of(type, t.normal(33, 24)));
  ops.rope(written.back(), t.indices(t.integers(33, 9)),
           t.input_of(DType::f32, t.normal_of(DType::f32, 9, 8)), Direction::forward);

  AttentionShape shape{4, 2, 8};
  Indices cu_seqlens = t.indices({0, 70, 71, 100});
  Tensor q = in(t.normal(100, 32)), k = in(t.normal(100, 16)), v = in(t.normal(100, 16));
  Tensor dq = out(100, 32), dk = out(100, 16), dv = out(100, 16), attended = out(100, 32),
         lse = f32_out(100, 4);
  ops.attention(shape, cu_seqlens, q, k, v, attended, lse);
  ops.attention_backward(shape, cu_seqlens, q, k, v, in(t.normal(100, 32)), lse, in(t.normal(100, 32)), dq,
                         dk, dv);
  for (const Tensor& tensor : {attended, dq, dk, dv}) written.push_back(tensor);

  Matrix gate_up = t.normal(33, 30, 3);
  written.push_back(out(33, 15));
  ops.swiglu(in(gate_up), written.back());
  written.push_back(t.in_place_of(type, gate_up));
  ops.swiglu_backward(in(t.normal(33, 15)), written.back(), {});

  written.push_back(t.in_place_of(type, t.normal(20, 101, 3)));
  ops.cross_entropy(written.back(), t.indices(t.integers(20, 101)), 0.3f, f32_out(1, 20),
                    LossMode::loss_and_gradient);

  std::vector<Matrix> results;
  for (const Tensor& tensor : written) results.push_back(t.read(tensor));
  return results;
}

}  // namespace

TEST_CASE("16-bit results are the fp32 results rounded once, bit for bit") {
  INFO("LLMFT_TEST_SEED=" << test_seed());
  Cpu cpu;
  for (DType narrow : {DType::bf16, DType::f16}) {
    auto wide = results_in(*cpu.ops, DType::f32, narrow), got = results_in(*cpu.ops, narrow, narrow);
    REQUIRE(wide.size() == got.size());
    for (size_t i = 0; i < wide.size(); ++i) {
      INFO("result " << i);
      CHECK(bits_of(got[i]) == bits_of(wide[i].map([&](double x) { return rounded_to(narrow, x); })));
    }
  }
}

TEST_CASE("results repeat bit for bit, and a repeated step takes no more memory") {
  INFO("LLMFT_TEST_SEED=" << test_seed());
  for (DType type : {DType::f32, DType::bf16}) {
    Cpu cpu, another;
    auto first = results_in(*cpu.ops, type, DType::bf16);
    size_t held = cpu.device->bytes_held();
    auto again = results_in(*cpu.ops, type, DType::bf16);
    CHECK(cpu.device->bytes_held() == held);
    auto elsewhere = results_in(*another.ops, type, DType::bf16);
    for (size_t i = 0; i < first.size(); ++i) {
      CHECK(bits_of(again[i]) == bits_of(first[i]));
      CHECK(bits_of(elsewhere[i]) == bits_of(first[i]));
    }
  }
}

TEST_CASE("tf32 mode rounds the operands to 10 bits of mantissa, and nothing else") {
  INFO("LLMFT_TEST_SEED=" << test_seed());
  Cpu cpu(MatmulMode::tf32);
  OpTest t(*cpu.ops, DType::f32);
  Matrix a = t.normal(30, 70), b = t.normal(20, 70);
  Tensor d = t.output(30, 20);
  cpu.ops->matmul(Layout::nt, t.input(a), t.input(b), d);
  auto tf32 = [](double x) -> double { return round_to_tf32(static_cast<float>(x)); };
  t.expect("d", d, oracle::matmul(Layout::nt, a.map(tf32), b.map(tf32)));
  Matrix exact = oracle::matmul(Layout::nt, a, b);
  CHECK(distance(t.read(d), exact) > 1e-5 * norm_of(exact));
}

TEST_CASE("products larger than a tile of scratch") {
  INFO("LLMFT_TEST_SEED=" << test_seed());
  Cpu cpu;
  OpTest t(*cpu.ops, DType::bf16);
  for (auto [m, n] : {std::array{2050, 3}, {3, 4100}})
    for (Layout layout : {Layout::nt, Layout::nn, Layout::tn}) {
      Matrix a = layout == Layout::tn ? t.normal(5, m) : t.normal(m, 5);
      Matrix b = layout == Layout::nt ? t.normal(n, 5) : t.normal(5, n);
      Matrix c = t.normal(m, n), want = oracle::matmul(layout, a, b);
      for (size_t i = 0; i < want.values.size(); ++i) want.values[i] += c.values[i];
      Tensor d = t.output(m, n);
      cpu.ops->matmul(layout, t.input(a), t.input(b), d, 1, 1, t.input(c));
      t.expect("d", d, want);
      t.finish();
    }
}

TEST_CASE("a document attends as if it were alone, even among NaN") {
  INFO("LLMFT_TEST_SEED=" << test_seed());
  Cpu cpu;
  AttentionPack packed{{4, 2, 16}, {0, 77, 180, 181}}, alone{packed.shape, {0, 103}};
  for (DType type : {DType::f32, DType::bf16}) {
    OpTest t(*cpu.ops, type);
    auto run = [&](const AttentionPack& p, const Matrix& q, const Matrix& k, const Matrix& v,
                   const Matrix& dout) {
      std::vector<Tensor> results = {t.output(p.tokens(), 64), t.output_of(DType::f32, p.tokens(), 4),
                                     t.output(p.tokens(), 64), t.output(p.tokens(), 32),
                                     t.output(p.tokens(), 32)};
      Tensor qt = t.input(q), kt = t.input(k), vt = t.input(v);
      Indices cu_seqlens = t.indices(p.cu_seqlens);
      cpu.ops->attention(p.shape, cu_seqlens, qt, kt, vt, results[0], results[1]);
      cpu.ops->attention_backward(p.shape, cu_seqlens, qt, kt, vt, results[0], results[1], t.input(dout),
                                  results[2], results[3], results[4]);
      return results;
    };
    auto among_nan = [](const Matrix& x) {
      Matrix all(181, x.cols, std::numeric_limits<double>::quiet_NaN());
      all.put(77, 0, x);
      return all;
    };
    Matrix q = t.normal(103, 64), k = t.normal(103, 32), v = t.normal(103, 32), dout = t.normal(103, 64);
    auto expected = run(alone, q, k, v, dout);
    auto got = run(packed, among_nan(q), among_nan(k), among_nan(v), among_nan(dout));
    for (size_t i = 0; i < got.size(); ++i)
      CHECK(bits_of(t.read(got[i].row_range(77, 103))) == bits_of(t.read(expected[i])));
  }
}

// The loss scaler sees an overflow only if no op swallows it.
TEST_CASE("NaN and infinity in an input reach the output") {
  Cpu cpu;
  OpTest t(*cpu.ops, DType::f32);
  for (double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Matrix logits = t.normal(3, 40);
    logits(1, 17) = bad;
    Tensor loss = t.output(1, 3), gradient = t.in_place(logits);
    cpu.ops->cross_entropy(gradient, t.indices({0, 1, 2}), 1, loss, LossMode::loss_and_gradient);
    CHECK_FALSE(std::isfinite(t.read(loss)[1]));
    CHECK_FALSE(std::isfinite(norm_of(t.read(gradient.row_range(1, 1)))));
    CHECK(std::isfinite(t.read(loss)[0]));
    CHECK(std::isfinite(t.read(loss)[2]));

    Matrix x = t.normal(1, 40);
    x[39] = bad;
    Tensor y = t.output(1, 40), rstd = t.output(1, 1), h = t.output(1, 20), gate_up = t.in_place(x);
    cpu.ops->norm(t.input(x), t.input(t.normal(1, 40)), 1e-5f, {}, y, rstd);
    CHECK_FALSE(std::isfinite(norm_of(t.read(y))));
    cpu.ops->swiglu(gate_up, h);
    CHECK_FALSE(std::isfinite(t.read(h)[19]));
    cpu.ops->swiglu_backward(t.input(t.normal(1, 20)), gate_up, {});
    CHECK_FALSE(std::isfinite(norm_of(t.read(gate_up))));
    CHECK_FALSE(std::isfinite(sum_on(*cpu.ops, t.input(x))));
  }
}

TEST_CASE("wrong shapes, dtypes and indices are refused") {
  Cpu cpu;
  Ops& ops = *cpu.ops;
  OpTest t(ops, DType::f32);
  Tensor x = t.in_place(t.normal(4, 6)), w = t.in_place(t.normal(1, 6)), rstd = t.output(1, 4);
  Tensor half = t.output_of(DType::bf16, 4, 6), narrow = t.output(4, 5), square = t.output(4, 4);
  CHECK_THROWS_AS(ops.norm(x, w, 1e-5f, {}, narrow, rstd), InternalError);
  CHECK_THROWS_AS(ops.norm(x, w, 1e-5f, {}, half, rstd), InternalError);
  CHECK_THROWS_AS(ops.norm_backward(x, x, w, rstd, t.input(t.normal(6, 2)), x, {}), InternalError);
  CHECK_THROWS_AS(ops.matmul(Layout::nn, x, x, square), InternalError);
  CHECK_THROWS_AS(ops.matmul(Layout::nt, x, half, square), InternalError);
  CHECK_THROWS_AS(ops.matmul(Layout::nt, x, x, square, 1, 1), InternalError);
  CHECK_THROWS_AS(ops.embed(t.indices({0, 1, 4, 0}), x, t.output(4, 6)), InternalError);
  CHECK_THROWS_AS(ops.embed_backward(t.indices({0, 1, -1, 0}), x, t.output(4, 6)), InternalError);
  CHECK_THROWS_AS(ops.rope(x, t.indices({0, 1, 2, 4}), t.input(t.normal(4, 6)), Direction::forward),
                  InternalError);
  CHECK_THROWS_AS(ops.gather_rows(x, t.indices({4}), t.output(1, 6)), InternalError);
  CHECK_THROWS_AS(ops.cross_entropy(x, t.indices({0, 1, 2, 6}), 1, rstd, LossMode::loss_only), InternalError);
  CHECK_THROWS_AS(ops.swiglu(x, square), InternalError);
  CHECK_THROWS_AS(ops.add(half, x), InternalError);
  CHECK_THROWS_AS(ops.convert(x, narrow), InternalError);
  for (const std::vector<int32_t>& cu_seqlens : {std::vector<int32_t>{0, 3}, {1, 4}, {0, 3, 2, 4}})
    CHECK_THROWS_AS(ops.attention({3, 1, 2}, t.indices(cu_seqlens), x, t.input(t.normal(4, 2)),
                                  t.input(t.normal(4, 2)), t.output(4, 6), t.output(4, 3)),
                    InternalError);
  CHECK_THROWS_AS(make_cpu_ops(*cpu.device, MatmulMode::f32, 0), InternalError);
}

TEST_CASE("exp in float is within 2 units in the last place") {
  double worst = 0;
  for (int64_t i = -8'730'000; i <= 8'730'000; i += 7) {
    auto x = static_cast<float>(static_cast<double>(i) * 1e-5);
    double want = std::exp(static_cast<double>(x));
    double unit = std::ldexp(1.0, std::ilogb(want) - 23);
    worst = std::max(worst, std::abs(static_cast<double>(exp_f32(x)) - want) / unit);
  }
  CHECK(worst <= 2);
  CHECK(exp_f32(0.0f) == 1.0f);
  CHECK(exp_f32(-1000.0f) == exp_f32(-87.3f));
  CHECK(exp_f32(-std::numeric_limits<float>::infinity()) < 2e-38f);
  CHECK(exp_f32(1000.0f) > 8e37f);
  CHECK(std::isnan(exp_f32(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("sums and maxima over lanes take every element once") {
  for (int64_t n = 1; n <= 70; ++n) {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i * i - 40);
    float total = sum_terms<float>(n, [&](int64_t i) { return x[static_cast<size_t>(i)]; });
    double want = 0, squares = 0;
    for (float value : x) {
      want += value;
      squares += double{value} * double{value};
    }
    CHECK(static_cast<double>(total) == want);  // integers far below 2^24: exact in any order
    if (squares < 0x1p24) CHECK(static_cast<double>(dot(x.data(), x.data(), n)) == squares);
    for (int64_t peak = 0; peak < n; ++peak) {
      std::vector<float> y(static_cast<size_t>(n), -3.0f);
      y[static_cast<size_t>(peak)] = -2.0f;
      CHECK(largest(y.data(), n) == -2.0f);
    }
  }
  CHECK(sum_terms<float>(0, [](int64_t) { return 1.0f; }) == 0.0f);
}
