// Generation's ops. The CPU's against formulas and Ops; a GPU's against the CPU's.
#include <cmath>
#include <map>

#include <doctest/doctest.h>

#include "llmft/base/rng.hpp"
#include "llmft/ops/backend.hpp"

using namespace llmft;

namespace {

struct Backend {
  std::unique_ptr<Device> device;
  std::unique_ptr<DecodeOps> ops;
};
Backend cpu() {
  auto device = make_cpu_device();
  auto ops = make_cpu_decode_ops(*device, 1);
  return {std::move(device), std::move(ops)};
}

// Values on a device; host() gives them back as floats.
class Held {
 public:
  Held(Device& device, DType type, int64_t rows, int64_t cols, int64_t gap, const std::vector<float>& values)
      : device_(&device),
        buffer_(device, static_cast<size_t>(rows * (cols + gap)) * size_of(type), MemoryPart::workspace) {
    view = {buffer_.data(), type, rows, cols, cols + gap};
    std::vector<std::byte> bytes(buffer_.bytes());
    Tensor host = view;
    host.data = bytes.data();
    each(host, [&]<class S>(S* row, int64_t i) {
      for (int64_t j = 0; j < cols; ++j) row[j] = from_float<S>(values[static_cast<size_t>(i * cols + j)]);
    });
    device.copy_to_device(buffer_.data(), bytes.data(), bytes.size());
  }
  std::vector<float> host() const {
    std::vector<std::byte> bytes(buffer_.bytes());
    device_->copy_to_host(bytes.data(), buffer_.data(), bytes.size());
    device_->synchronize();
    Tensor from = view;
    from.data = bytes.data();
    std::vector<float> out;
    each(from, [&]<class S>(S* row, int64_t) {
      for (int64_t j = 0; j < from.cols; ++j) out.push_back(to_float(row[j]));
    });
    return out;
  }
  Tensor view;

 private:
  template <class F>
  static void each(const Tensor& x, F&& f) {
    for (int64_t i = 0; i < x.rows; ++i) {
      if (x.dtype == DType::f32) f(x.row<float>(i), i);
      if (x.dtype == DType::bf16) f(x.row<Bf16>(i), i);
      if (x.dtype == DType::f16) f(x.row<F16>(i), i);
    }
  }
  Device* device_;
  Buffer buffer_;
};

struct List {
  Buffer buffer;
  Indices view;
  List(Device& device, const std::vector<int32_t>& values)
      : buffer(device, values.size() * sizeof(int32_t), MemoryPart::workspace) {
    device.copy_to_device(buffer.data(), values.data(), values.size() * sizeof(int32_t));
    view = {static_cast<const int32_t*>(buffer.data()), static_cast<int64_t>(values.size())};
  }
};

std::vector<float> normals(int64_t n, double scale = 1) {
  static uint64_t stream = 0;
  CounterRng rng(11, ++stream);
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(scale * rng.normal(i));
  return out;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
  }
  return worst;
}

double slack(DType type) {
  return type == DType::f32 ? 3e-5 : type == DType::bf16 ? 0.03 : 0.004;
}

struct CacheCase {
  AttentionShape shape;
  int64_t context = 300;
  int64_t slots = 5;
  std::vector<int32_t> slot{3, 3, -1, 0, 4, 1, 2};
  std::vector<int32_t> position{10, 11, 0, 299, 0, 64, 130};
  std::vector<float> k, v, qkv, table;

  explicit CacheCase(AttentionShape s) : shape(s) {
    k = normals(slots * s.kv_heads * context * s.head_dim);
    v = normals(slots * s.kv_heads * context * s.head_dim);
    qkv = normals(static_cast<int64_t>(slot.size()) * (s.heads + 2 * s.kv_heads) * s.head_dim);
    table = normals(context * s.head_dim);
  }
  struct Result {
    std::vector<float> q, k, v, out;
  };
  Result run(Device& device, DecodeOps& ops, DType type) const {
    auto rows = static_cast<int64_t>(slot.size());
    int64_t cached = slots * shape.kv_heads * context;
    Held dk(device, type, cached, shape.head_dim, 0, k), dv(device, type, cached, shape.head_dim, 0, v);
    Held dqkv(device, type, rows, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, 8, qkv);
    Held dtable(device, DType::f32, context, shape.head_dim, 0, table);
    Held out(device, type, rows, shape.heads * shape.head_dim, 16,
             std::vector<float>(static_cast<size_t>(rows * shape.heads * shape.head_dim)));
    List s(device, slot), p(device, position);
    KvCache cache{dk.view, dv.view, context};
    CacheRows where{s.view, p.view};
    ops.rope_append(shape, where, dtable.view, dqkv.view, cache);
    Tensor q = dqkv.view.col_range(0, shape.heads * shape.head_dim);
    for (int repeat = 0; repeat < 2; ++repeat) ops.attend(shape, where, context, q, cache, out.view);
    Result r{dqkv.host(), dk.host(), dv.host(), out.host()};
    auto blank = [&](std::vector<float>& x) {  // what a padding row has means nothing
      size_t width = x.size() / slot.size();
      for (size_t t = 0; t < slot.size(); ++t)
        if (slot[t] < 0) std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(t * width), width, 0.0f);
    };
    blank(r.q);
    blank(r.out);
    ops.copy_slot(shape, cache, 0, 4, 200);
    std::vector<float> copied = dk.host();
    r.k.insert(r.k.end(), copied.begin(), copied.end());
    return r;
  }
};

struct LinearCase {
  int64_t rows, k, n, e;
  bool adapted;
};
struct LinearResult {
  std::vector<float> normed, logits, swiglu, added;
};
LinearResult run(const LinearCase& c, Device& device, DecodeOps& ops, DType type, const std::vector<float>& x,
                 const std::vector<float>& norm, const std::vector<float>& w, const std::vector<float>& y) {
  Held dx(device, type, c.rows, c.k, 8, x), dnorm(device, type, 1, c.k, 0, norm),
      dw(device, type, c.n + c.e, c.k + c.e, 0, w);
  Held normed(device, type, c.rows, c.n, 0, y), logits(device, DType::f32, c.rows, c.n, 0, y),
      added(device, type, c.rows, c.n, 0, y),
      h(device, type, c.rows, c.n / 2, 8, std::vector<float>(static_cast<size_t>(c.rows * c.n / 2)));
  std::vector<int32_t> wanted(static_cast<size_t>(c.rows));
  for (size_t i = 0; i < wanted.size(); i += 2) wanted[i] = 1;
  List list(device, wanted);
  Indices adapted = c.adapted ? list.view : Indices{};
  LinearWeight weight{dw.view, c.e};
  ops.norm_linear(dx.view, dnorm.view, 1e-5f, weight, adapted, normed.view);
  ops.norm_linear(dx.view, dnorm.view, 1e-5f, weight, adapted, logits.view);
  ops.norm_swiglu(dx.view, dnorm.view, 1e-5f, weight, adapted, h.view);
  ops.linear_add(dx.view, weight, adapted, added.view);
  return {normed.host(), logits.host(), h.host(), added.host()};
}

// Draws for rows; what they leave in `seen` too.
std::vector<int32_t> draw(Device& device, DecodeOps& ops, int64_t vocabulary,
                          const std::vector<float>& logits, const std::vector<SampleRow>& rows,
                          std::vector<int32_t>& seen) {
  auto n = static_cast<int64_t>(rows.size());
  Held l(device, DType::f32, n, vocabulary, 0, logits);
  Buffer r(device, rows.size() * sizeof(SampleRow), MemoryPart::workspace);
  device.copy_to_device(r.data(), rows.data(), r.bytes());
  List s(device, seen), out(device, std::vector<int32_t>(rows.size()));
  int64_t words = seen_words(vocabulary);
  ops.sample(l.view, static_cast<const SampleRow*>(r.data()),
             s.buffer.view(DType::i32, static_cast<int64_t>(seen.size()) / words, words),
             static_cast<int32_t*>(out.buffer.data()));
  std::vector<int32_t> tokens(rows.size());
  device.copy_to_host(tokens.data(), out.buffer.data(), out.buffer.bytes());
  device.copy_to_host(seen.data(), s.buffer.data(), s.buffer.bytes());
  device.synchronize();
  return tokens;
}

// How often each token comes, of `count` draws.
std::map<int32_t, int> counts(const std::vector<float>& logits, SampleRow row, int count) {
  Backend b = cpu();
  std::map<int32_t, int> out;
  std::vector<int32_t> seen(static_cast<size_t>(seen_words(static_cast<int64_t>(logits.size()))));
  CounterRng rng(5, 5);
  for (int i = 0; i < count; ++i) {
    uint64_t bits = rng.bits(static_cast<uint64_t>(i));
    row.random_low = static_cast<uint32_t>(bits);
    row.random_high = static_cast<uint32_t>(bits >> 32);
    ++out[draw(*b.device, *b.ops, static_cast<int64_t>(logits.size()), logits, {row}, seen)[0]];
  }
  return out;
}

bool no_gpu() {
  if (cuda_device_count() > 0) return false;
  MESSAGE("skipped: no GPU on this machine");
  return true;
}

Backend gpu() {
  auto device = make_cuda_device(0);
  auto ops = make_cuda_decode_ops(*device);
  return {std::move(device), std::move(ops)};
}

}  // namespace

TEST_CASE("attention through the cache equals attention over the sequence") {
  AttentionShape shape{6, 2, 16};
  constexpr int64_t kTokens = 40;
  Backend b = cpu();
  auto ops = make_cpu_ops(*b.device, MatmulMode::f32, 1);
  int64_t width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim, q = shape.heads * shape.head_dim,
          kv = shape.kv_heads * shape.head_dim;
  auto values = normals(kTokens * width), table = normals(kTokens * shape.head_dim);
  std::vector<int32_t> positions(kTokens), slots(kTokens, 1), bounds{0, kTokens};
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  Held plain(*b.device, DType::f32, kTokens, width, 0, values),
      cached(*b.device, DType::f32, kTokens, width, 0, values);
  Held t(*b.device, DType::f32, kTokens, shape.head_dim, 0, table);
  std::vector<float> none(static_cast<size_t>(3 * shape.kv_heads * kTokens * shape.head_dim));
  Held k(*b.device, DType::f32, 3 * shape.kv_heads * kTokens, shape.head_dim, 0, none),
      v(*b.device, DType::f32, 3 * shape.kv_heads * kTokens, shape.head_dim, 0, none);
  std::vector<float> empty(static_cast<size_t>(kTokens * q));
  Held wanted(*b.device, DType::f32, kTokens, q, 0, empty), got(*b.device, DType::f32, kTokens, q, 0, empty),
      lse(*b.device, DType::f32, kTokens, shape.heads, 0, empty);
  Indices p{positions.data(), kTokens};
  ops->rope(plain.view.col_range(0, q + kv), p, t.view, Direction::forward);
  ops->attention(shape, {bounds.data(), 2}, plain.view.col_range(0, q), plain.view.col_range(q, kv),
                 plain.view.col_range(q + kv, kv), wanted.view, lse.view);
  KvCache cache{k.view, v.view, kTokens};
  CacheRows rows{{slots.data(), kTokens}, p};
  b.ops->rope_append(shape, rows, t.view, cached.view, cache);
  b.ops->attend(shape, rows, kTokens, cached.view.col_range(0, q), cache, got.view);
  CHECK(cached.host() == plain.host());
  CHECK(largest_difference(got.host(), wanted.host()) < 1e-5);
  b.ops->copy_slot(shape, cache, 1, 2, 30);
  std::vector<int32_t> other{2}, last{29};
  Held again(*b.device, DType::f32, 1, q, 0, empty);
  b.ops->attend(shape, {{other.data(), 1}, {last.data(), 1}}, 30,
                cached.view.row_range(29, 1).col_range(0, q), cache, again.view);
  auto expected = wanted.host();
  expected.assign(expected.begin() + 29 * q, expected.begin() + 30 * q);
  CHECK(largest_difference(again.host(), expected) < 1e-5);
}

TEST_CASE("sampling keeps what its settings keep, as often as it should") {
  // probabilities 0.4, 0.3, 0.2, 0.1, in another order than ids
  std::vector<float> logits{std::log(0.2f), std::log(0.4f), std::log(0.1f), std::log(0.3f), -INFINITY};
  constexpr int kDraws = 4000;
  auto close = [&](int count, double p) {
    return std::abs(count - p * kDraws) < 5 * std::sqrt(kDraws * p * (1 - p)) + 1e-9;
  };
  auto all = counts(logits, {.temperature = 1}, kDraws);
  CHECK(close(all[1], 0.4));
  CHECK(close(all[3], 0.3));
  CHECK(close(all[0], 0.2));
  CHECK(close(all[2], 0.1));
  CHECK(all[4] == 0);
  auto cold = counts(logits, {.temperature = 0.5}, kDraws);  // squares
  CHECK(close(cold[1], 0.16 / 0.3));
  CHECK(close(cold[2], 0.01 / 0.3));
  auto two = counts(logits, {.temperature = 1, .top_k = 2}, kDraws);
  CHECK(two.size() == 2);
  CHECK(close(two[1], 4.0 / 7));
  auto p = counts(logits, {.temperature = 1, .top_p = 0.75}, kDraws);  // 0.4 + 0.3 do not reach it
  CHECK(p.size() == 3);
  CHECK(close(p[1], 4.0 / 9));
  CHECK(counts(logits, {.temperature = 1, .top_p = 0.69}, kDraws).size() == 2);
  CHECK(counts(logits, {.temperature = 1, .top_p = 0}, 100).size() == 1);
  CHECK(counts(logits, {.temperature = 1, .min_p = 0.45}, kDraws).size() == 3);  // 0.2 is half of 0.4
  CHECK(counts(logits, {.temperature = 1, .min_p = 1}, 100).size() == 1);
  // top-p counts what top-k left: 0.4 / 0.7 alone reaches 0.55
  CHECK(counts(logits, {.temperature = 1, .top_p = 0.55f, .top_k = 2}, 100).size() == 1);
  std::vector<float> ties{1, 2, 2, 2, 0};
  CHECK(counts(ties, {.temperature = 1, .top_k = 2}, 1000).size() == 3);
  CHECK(counts(ties, {.temperature = 0}, 1) == std::map<int32_t, int>{{1, 1}});

  Backend b = cpu();
  std::vector<int32_t> seen(2);
  std::vector<float> close_race{1.9f, 2, -1};
  std::vector<SampleRow> rows{{.penalty = 1.2f, .seen = 1}};
  CHECK(draw(*b.device, *b.ops, 3, close_race, rows, seen)[0] == 1);
  CHECK(seen == std::vector<int32_t>{0, 2});
  CHECK(draw(*b.device, *b.ops, 3, close_race, rows, seen)[0] == 0);  // 2 / 1.2 is less than 1.9
  CHECK(seen == std::vector<int32_t>{0, 3});
}

TEST_CASE("CUDA: cache and attention as the CPU's") {
  if (no_gpu()) return;
  Backend c = cpu(), g = gpu();
  for (DType type : {DType::f32, DType::bf16, DType::f16})
    for (AttentionShape shape :
         {AttentionShape{32, 8, 64}, {4, 2, 32}, {6, 1, 16}, {5, 5, 24}, {2, 1, 128}}) {
      CAPTURE(std::string(name_of(type)));
      CAPTURE(shape.head_dim);
      CacheCase test(shape);
      auto wanted = test.run(*c.device, *c.ops, type), got = test.run(*g.device, *g.ops, type);
      CHECK(largest_difference(got.q, wanted.q) <= slack(type));
      CHECK(largest_difference(got.k, wanted.k) <= slack(type));
      CHECK(largest_difference(got.v, wanted.v) == 0);
      CHECK(largest_difference(got.out, wanted.out) <= slack(type));
    }
}

TEST_CASE("CUDA: linear layers for a few rows as the CPU's") {
  if (no_gpu()) return;
  Backend c = cpu(), g = gpu();
  for (DType type : {DType::f32, DType::bf16, DType::f16})
    for (int64_t rows : {1, 2, 3, 4})
      for (auto [k, n, e] : {std::tuple<int64_t, int64_t, int64_t>{256, 64, 16},
                             {2048, 3072, 64},
                             {136, 50, 0},
                             {44, 30, 6},
                             {8192, 256, 64}})
        for (bool adapted : {false, true}) {
          CAPTURE(std::string(name_of(type)));
          CAPTURE(rows);
          CAPTURE(k);
          LinearCase test{rows, k, n, e, adapted};
          auto x = normals(rows * k), norm = normals(k), y = normals(rows * n),
               w = normals((n + e) * (k + e), 1 / std::sqrt(static_cast<double>(k)));
          auto wanted = run(test, *c.device, *c.ops, type, x, norm, w, y),
               got = run(test, *g.device, *g.ops, type, x, norm, w, y);
          double most = 4 * slack(type);  // values of up to 5, products of them in SwiGLU
          CHECK(largest_difference(got.normed, wanted.normed) <= most);
          CHECK(largest_difference(got.logits, wanted.logits) <= most);
          CHECK(largest_difference(got.swiglu, wanted.swiglu) <= 2 * most);
          CHECK(largest_difference(got.added, wanted.added) <= most);
        }
}

// exp differs in the last bit, which may move a draw that falls on a border: once in a million.
TEST_CASE("CUDA: sampling draws the CPU's tokens") {
  if (no_gpu()) return;
  Backend c = cpu(), g = gpu();
  int same = 0, total = 0;
  for (int64_t vocabulary : {128256, 5003, 40})
    for (uint64_t round = 0; round < 8; ++round) {
      constexpr int kRows = 16;
      CounterRng rng(9, round);
      std::vector<SampleRow> rows(kRows);
      for (size_t i = 0; i < kRows; ++i) {
        uint64_t bits = rng.bits(i);
        rows[i] = {.temperature = i == 0       ? 0.0f
                                  : i % 3 == 0 ? 0.7f
                                               : 1.3f,
                   .top_p = i % 4 == 1 ? 0.9f
                            : i == 11  ? 0.0f
                                       : 1.0f,
                   .min_p = i % 5 == 2 ? 0.05f : 0.0f,
                   .penalty = i % 2 == 1 ? 1.3f : 1.0f,
                   .top_k = i % 6 == 3 ? 40
                            : i == 10  ? 6000
                                       : 0,
                   .seen = i % 2 == 1 ? static_cast<int32_t>(i) : -1,
                   .random_low = static_cast<uint32_t>(bits),
                   .random_high = static_cast<uint32_t>(bits >> 32)};
      }
      std::vector<int32_t> seen(static_cast<size_t>(kRows * seen_words(vocabulary)));
      for (size_t i = 0; i < seen.size(); ++i)
        seen[i] = static_cast<int32_t>(rng.bits(1000 + i) & rng.bits(900000 + i));
      auto also_seen = seen;
      auto logits = normals(kRows * vocabulary, round % 2 == 0 ? 8 : 3);
      auto wanted = draw(*c.device, *c.ops, vocabulary, logits, rows, seen);
      auto got = draw(*g.device, *g.ops, vocabulary, logits, rows, also_seen);
      for (size_t i = 0; i < kRows; ++i) same += got[i] == wanted[i];
      total += kRows;
      if (got == wanted) CHECK(seen == also_seen);
    }
  CHECK(same >= total - 1);
}

// For compute-sanitizer.
TEST_CASE("small CUDA: decoding" * doctest::skip()) {
  if (no_gpu()) return;
  Backend c = cpu(), g = gpu();
  for (DType type : {DType::f32, DType::bf16}) {
    CacheCase cache({4, 2, 32});
    CHECK(largest_difference(cache.run(*g.device, *g.ops, type).out,
                             cache.run(*c.device, *c.ops, type).out) <= slack(type));
    for (int64_t rows : {1, 3}) {
      LinearCase test{rows, 136, 50, 6, true};
      auto x = normals(rows * test.k), norm = normals(test.k), y = normals(rows * test.n),
           w = normals((test.n + test.e) * (test.k + test.e), 1 / std::sqrt(static_cast<double>(test.k)));
      auto wanted = run(test, *c.device, *c.ops, type, x, norm, w, y),
           got = run(test, *g.device, *g.ops, type, x, norm, w, y);
      CHECK(largest_difference(got.normed, wanted.normed) <= 4 * slack(type));
      CHECK(largest_difference(got.swiglu, wanted.swiglu) <= 8 * slack(type));
      CHECK(largest_difference(got.added, wanted.added) <= 4 * slack(type));
    }
  }
  std::vector<SampleRow> rows{{.temperature = 0, .penalty = 1.3f, .seen = 0},
                              {.temperature = 1, .top_p = 0.9f, .random_high = 1u << 30},
                              {.temperature = 1, .top_k = 40, .random_high = 3u << 30}};
  auto logits = normals(3 * 5003, 8);
  std::vector<int32_t> seen(static_cast<size_t>(3 * seen_words(5003))), also_seen = seen;
  CHECK(draw(*g.device, *g.ops, 5003, logits, rows, seen) ==
        draw(*c.device, *c.ops, 5003, logits, rows, also_seen));
}
