// Attention on the GPU: the table's cases against the oracle; kernels on tensor cores against the exact ones
// at sizes that the oracle is too slow for; kernels of warp groups against those of warps.
#include <cmath>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "llmft/ops/backend.hpp"
#include "ops/op_cases.hpp"

namespace {

using namespace llmft;
using namespace llmft::test;

// Both factors of every product are rounded by up to 2^-11, by 2^-12.6 in quadratic mean. A score of standard
// normals is then off by 2^-12.1 of its size, a result by that of the scores, of the probabilities and of the
// values: 2^-11 together.
constexpr double kTf32 = 0x1p-10;

std::vector<OpCase> attention_cases() {
  std::vector<OpCase> result;
  for (const OpCase& op_case : op_cases())
    if (std::string_view(op_case.name).starts_with("attention")) result.push_back(op_case);
  return result;
}

void run_attention(DType type, MatmulMode mode, double roundings, double slack) {
  auto device = make_cuda_device(0);
  auto ops = make_cuda_ops(*device, mode, KernelChoice::fixed);
  for (const std::vector<int64_t>& gaps : {std::vector<int64_t>{0, 1, 8, 3}, {0, 64, 8}}) {
    OpTest test(*ops, type);
    test.attention_roundings = roundings;
    test.attention_slack = slack;
    test.gaps = gaps;
    run_cases(test, attention_cases());
  }
}

// Which forward kernels run in the meantime: "groups" those on warp groups, "library" the library's or those
// of warps.
class ForwardKernels {
 public:
  explicit ForwardKernels(const char* name) { setenv("LLMFT_ATTENTION_FORWARD", name, 1); }
  ~ForwardKernels() { unsetenv("LLMFT_ATTENTION_FORWARD"); }
  ForwardKernels(const ForwardKernels&) = delete;
  ForwardKernels& operator=(const ForwardKernels&) = delete;
};
constexpr const char* kForwardKernels[] = {"library", "groups"};

struct Gradients {
  std::vector<float> dq, dk, dv;
};

// bf16 attention forward and backward of one random pack in [T, N] buffers, as training lays them out.
Gradients train_like(const char* products, const std::vector<int32_t>& cu_seqlens, int64_t out_gap,
                     int64_t dout_gap) {
  constexpr AttentionShape kShape{32, 8, 64};
  constexpr int64_t kQ = 2048, kKv = 512, kN = kQ + 2 * kKv;
  int64_t tokens = cu_seqlens.back();
  auto device = make_cuda_device(0);
  auto ops = make_cuda_ops(*device, MatmulMode::f32, KernelChoice::fixed);
  auto make = [&](DType type, int64_t cols) {
    return Buffer(*device, static_cast<size_t>(tokens * cols) * size_of(type), MemoryPart::workspace);
  };
  Buffer qkv = make(DType::bf16, kN), dqkv = make(DType::bf16, kN + 64),
         out = make(DType::bf16, kQ + out_gap);
  Buffer dout = make(DType::bf16, kQ + dout_gap), lse = make(DType::f32, 32);
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  auto fill = [&](Buffer& buffer) {
    std::vector<Bf16> values(buffer.bytes() / 2);
    for (Bf16& v : values) v = from_float<Bf16>(normal(random));
    device->copy_to_device(buffer.data(), values.data(), buffer.bytes());
    device->synchronize();
  };
  fill(qkv);
  fill(dout);
  Buffer list(*device, cu_seqlens.size() * 4, MemoryPart::workspace);
  device->copy_to_device(list.data(), cu_seqlens.data(), list.bytes());
  Indices documents{static_cast<const int32_t*>(list.data()), static_cast<int64_t>(cu_seqlens.size())};
  Tensor x = qkv.view(DType::bf16, tokens, kN), dx = dqkv.view(DType::bf16, tokens, kN + 64);
  Tensor o = out.view(DType::bf16, tokens, kQ + out_gap).col_range(0, kQ),
         l = lse.view(DType::f32, tokens, 32);
  auto q = [&](const Tensor& t) { return t.col_range(0, kQ); };
  auto k = [&](const Tensor& t) { return t.col_range(kQ, kKv); };
  auto v = [&](const Tensor& t) { return t.col_range(kQ + kKv, kKv); };
  ops->attention(kShape, documents, q(x), k(x), v(x), o, l);
  setenv("LLMFT_ATTENTION_BACKWARD", products, 1);
  ops->attention_backward(kShape, documents, q(x), k(x), v(x), o, l,
                          dout.view(DType::bf16, tokens, kQ + dout_gap).col_range(0, kQ), q(dx), k(dx),
                          v(dx));
  unsetenv("LLMFT_ATTENTION_BACKWARD");
  std::vector<Bf16> all(static_cast<size_t>(tokens * (kN + 64)));
  device->copy_to_host(all.data(), dqkv.data(), dqkv.bytes());
  Gradients result;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < kN; ++c) {
      float value = to_float(all[static_cast<size_t>(t * (kN + 64) + c)]);
      (c < kQ ? result.dq : c < kQ + kKv ? result.dk : result.dv).push_back(value);
    }
  return result;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) error += std::pow(a[i] - b[i], 2), size += std::pow(b[i], 2);
  return std::sqrt(error / size);
}

}  // namespace

TEST_CASE("CUDA attention: gradients by warp groups equal those by warps at training size") {
  if (cuda_device_count() == 0) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  std::vector<std::vector<int32_t>> packs(3);
  for (int i = 0; i <= 8; ++i) packs[0].push_back(i * 1024);
  packs[1] = {0, 1, 320, 900, 901, 2948, 3100};
  for (int i = 0; i <= 100; ++i) packs[2].push_back(i * 41);
  for (const auto& pack : packs) {
    for (auto [out_gap, dout_gap] : {std::pair(0, 0), std::pair(64, 64), std::pair(64, 0)}) {
      CAPTURE(pack.back());
      CAPTURE(out_gap);
      CAPTURE(dout_gap);
      Gradients groups = train_like("groups", pack, out_gap, dout_gap);
      Gradients warps = train_like("warps", pack, out_gap, dout_gap);
      CHECK(difference(groups.dq, warps.dq) < 1e-2);
      CHECK(difference(groups.dk, warps.dk) < 1e-2);
      CHECK(difference(groups.dv, warps.dv) < 1e-2);
    }
  }
}

TEST_CASE("CUDA attention computes its formulas") {
  if (cuda_device_count() == 0) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  // probabilities and their gradients are rounded to 16 bits before the second products
  run_attention(DType::f32, MatmulMode::f32, 1, 2e-6);
  for (const char* name : kForwardKernels) {
    CAPTURE(name);
    ForwardKernels forward(name);
    run_attention(DType::f32, MatmulMode::tf32, 1, kTf32);
    run_attention(DType::bf16, MatmulMode::f32, 3, 2e-6);
    run_attention(DType::f16, MatmulMode::f32, 3, 2e-6);
  }
}

namespace {

// One attention, forward and backward, as training lays its tensors out: Q, K and V beside each other, rows a
// little further apart than they are long.
struct Problem {
  AttentionShape shape;
  std::vector<int32_t> cu_seqlens;
  DType type;           // its inputs are values of this type
  int64_t lse_gap = 0;  // 1: not for the library's forward

  int64_t tokens() const { return cu_seqlens.back(); }
  int64_t q_width() const { return shape.heads * shape.head_dim; }
  int64_t kv_width() const { return shape.kv_heads * shape.head_dim; }
};
struct Kernels {
  DType type;
  MatmulMode mode;
  KernelChoice kernels;
};
struct Results {
  Matrix out, lse, dq, dk, dv;
};

// Host copies of what a problem starts from: the same for every kernel.
struct Inputs {
  Matrix qkv, dout;
};
Inputs inputs_of(const Problem& p) {
  auto normal = [&](int64_t cols, uint64_t stream) {
    CounterRng rng(test_seed(), stream);
    Matrix x(p.tokens(), cols);
    for (size_t i = 0; i < x.values.size(); ++i) x.values[i] = rounded_to(p.type, rng.normal(i));
    return x;
  };
  return {normal(p.q_width() + 2 * p.kv_width(), 1), normal(p.q_width(), 2)};
}

struct Gpu {
  DType type;
  std::unique_ptr<Device> device = make_cuda_device(0);
  std::unique_ptr<Ops> ops;
  explicit Gpu(const Kernels& k) : type(k.type), ops(make_cuda_ops(*device, k.mode, k.kernels)) {}
};

Results run(const Problem& p, const Inputs& inputs, const Gpu& gpu) {
  Device* device = gpu.device.get();
  std::vector<Buffer> buffers;
  int64_t tokens = p.tokens();
  auto make = [&](DType type, int64_t cols, int64_t gap, const Matrix* values) {
    std::vector<std::byte> image(static_cast<size_t>(tokens * (cols + gap)) * size_of(type), std::byte{0xff});
    if (values != nullptr)
      visit_dtype(type, [&]<class S>(S) {
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t c = 0; c < cols; ++c) {
            S value = from_float<S>(static_cast<float>((*values)(t, c)));
            std::memcpy(image.data() + static_cast<size_t>(t * (cols + gap) + c) * sizeof(S), &value,
                        sizeof(S));
          }
      });
    buffers.emplace_back(*device, image.size(), MemoryPart::workspace);
    device->copy_to_device(buffers.back().data(), image.data(), image.size());
    device->synchronize();
    return buffers.back().view(type, tokens, cols + gap).col_range(0, cols);
  };
  auto read = [&](const Tensor& x) {
    auto pitch = static_cast<size_t>(x.ld) * size_of(x.dtype);
    std::vector<std::byte> image(static_cast<size_t>(x.rows) * pitch);
    size_t bytes = image.size() - static_cast<size_t>(x.ld - x.cols) * size_of(x.dtype);
    device->copy_to_host(image.data(), x.data, bytes);
    device->synchronize();
    Matrix result(x.rows, x.cols);
    visit_dtype(x.dtype, [&]<class S>(S) {
      for (int64_t t = 0; t < x.rows; ++t)
        for (int64_t c = 0; c < x.cols; ++c) {
          S value;
          std::memcpy(&value,
                      image.data() + static_cast<size_t>(t) * pitch + static_cast<size_t>(c) * sizeof(S),
                      sizeof(S));
          result(t, c) = to_float(value);
        }
    });
    return result;
  };
  buffers.emplace_back(*device, p.cu_seqlens.size() * sizeof(int32_t), MemoryPart::workspace);
  device->copy_to_device(buffers.back().data(), p.cu_seqlens.data(), buffers.back().bytes());
  Indices documents{static_cast<const int32_t*>(buffers.back().data()),
                    static_cast<int64_t>(p.cu_seqlens.size())};

  int64_t width = p.q_width() + 2 * p.kv_width();
  Tensor qkv = make(gpu.type, width, 64, &inputs.qkv), dqkv = make(gpu.type, width, 64, nullptr);
  Tensor dout = make(gpu.type, p.q_width(), 8, &inputs.dout), out = make(gpu.type, p.q_width(), 8, nullptr);
  Tensor lse = make(DType::f32, p.shape.heads, p.lse_gap, nullptr);
  auto q = [&](const Tensor& x) { return x.col_range(0, p.q_width()); };
  auto k = [&](const Tensor& x) { return x.col_range(p.q_width(), p.kv_width()); };
  auto v = [&](const Tensor& x) { return x.col_range(p.q_width() + p.kv_width(), p.kv_width()); };
  gpu.ops->attention(p.shape, documents, q(qkv), k(qkv), v(qkv), out, lse);
  gpu.ops->attention_backward(p.shape, documents, q(qkv), k(qkv), v(qkv), out, lse, dout, q(dqkv), k(dqkv),
                              v(dqkv));
  return {read(out), read(lse), read(q(dqkv)), read(k(dqkv)), read(v(dqkv))};
}

// The whole, and every row by itself: one wrong row of many would not show in the whole.
// terms: the size of what adds up to nothing.
void check_near(const std::string& what, const Matrix& got, const Matrix& want, double tolerance,
                double terms = 0) {
  CAPTURE(what);
  double size = std::max(norm_of(want), terms);
  CHECK(distance(got, want) <= tolerance * size);
  double typical = size / std::sqrt(static_cast<double>(std::max<int64_t>(want.rows, 1)));
  double worst = 0;
  int64_t worst_row = -1;
  for (int64_t row = 0; row < want.rows; ++row) {
    Matrix a = got.row_range(row, 1), b = want.row_range(row, 1);
    double error = distance(a, b) / (norm_of(b) + typical);
    if (!(error <= worst)) worst = error, worst_row = row;
  }
  CAPTURE(worst_row);
  CHECK(worst <= 6 * tolerance);
}

void check_same(const Results& a, const Results& b) {
  CHECK(a.out.values == b.out.values);
  CHECK(a.lse.values == b.lse.values);
  CHECK(a.dq.values == b.dq.values);
  CHECK(a.dk.values == b.dk.values);
  CHECK(a.dv.values == b.dv.values);
}

struct Precision {
  const char* name;
  Kernels kernels;
  double tolerance;  // of the result; gradients have twice that
};
// 16 bits: inputs are exact, probabilities, their gradients and the result are rounded once each.
std::vector<Precision> precisions() {
  constexpr auto kFixed = KernelChoice::fixed;
  return {{"tf32", {DType::f32, MatmulMode::tf32, kFixed}, kTf32},
          {"bf16", {DType::bf16, MatmulMode::f32, kFixed}, 1.5 * unit_roundoff(DType::bf16)},
          {"f16", {DType::f16, MatmulMode::f32, kFixed}, 1.5 * unit_roundoff(DType::f16)}};
}

std::vector<int32_t> starts(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> result = {0};
  for (int32_t length : lengths) result.push_back(result.back() + length);
  return result;
}

}  // namespace

TEST_CASE("CUDA attention on tensor cores equals the exact kernels, for all lengths and heads") {
  if (cuda_device_count() == 0) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  std::vector<Problem> problems;
  std::vector<int32_t> short_ones =
      starts({1, 2, 7, 8, 9, 1, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 0, 127, 128, 129, 1});
  for (int64_t head_dim : {64, 128}) {
    problems.push_back({{32, 8, head_dim}, short_ones, DType::f32});
    problems.push_back({{4, 4, head_dim}, starts({191, 192, 193, 255, 256, 257, 500, 1}), DType::f32});
    problems.push_back({{8, 2, head_dim}, starts({1023, 1024, 1025, 3, 2048, 2047}), DType::f32});
    problems.push_back({{3, 1, head_dim}, starts({1}), DType::f32});
  }
  problems.push_back({{4, 1, 64}, starts({8192}), DType::f32});
  Gpu exact({DType::f32, MatmulMode::f32, KernelChoice::fixed});
  for (const Precision& precision : precisions()) {
    Gpu gpu(precision.kernels);
    for (Problem problem : problems) {
      problem.type = precision.kernels.type;
      Inputs inputs = inputs_of(problem);
      Results want = run(problem, inputs, exact);
      // gap 0: the library's forward in 16 bits
      for (auto [name, lse_gap] : {std::pair("library", 0), {"library", 1}, {"groups", 0}}) {
        if (lse_gap == 1 && problem.type == DType::f32) continue;
        problem.lse_gap = lse_gap;
        ForwardKernels forward(name);
        INFO(
            fmt::format("{}, {} / {} heads of {}, {} tokens in {} documents, lse gap {}, forward '{}', "
                        "LLMFT_TEST_SEED={}",
                        precision.name, problem.shape.heads, problem.shape.kv_heads, problem.shape.head_dim,
                        problem.tokens(), problem.cu_seqlens.size() - 1, lse_gap, name, test_seed()));
        Results got = run(problem, inputs, gpu);
        check_near("out", got.out, want.out, precision.tolerance);
        // a lone token's is a scaled product of normals, of size 1 a head, whose terms cancel
        double scores = problem.tokens() == 1 ? 2 * std::sqrt(static_cast<double>(problem.shape.heads)) : 0;
        check_near("lse", got.lse, want.lse, kTf32, scores);
        // a lone token's dP - rowsum(dO O) cancels
        double lone = problem.tokens() == 1 ? norm_of(inputs.dout) * norm_of(inputs.qkv) : 0;
        check_near("dq", got.dq, want.dq, 2 * precision.tolerance, lone);
        check_near("dk", got.dk, want.dk, 2 * precision.tolerance, lone);
        check_near("dv", got.dv, want.dv, 2 * precision.tolerance);
        check_same(got, run(problem, inputs, gpu));
      }
    }
  }
}

TEST_CASE("CUDA attention on tensor cores: a document's results do not depend on its neighbours") {
  if (cuda_device_count() == 0) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  for (const Precision& precision : precisions()) {
    Gpu gpu(precision.kernels);
    for (auto [name, head_dim] : {std::pair("library", 64), {"library", 128}, {"groups", 64}}) {
      CAPTURE(precision.name);
      CAPTURE(head_dim);
      CAPTURE(name);
      ForwardKernels forward(name);
      Problem all{{8, 2, head_dim}, starts({33, 300, 1, 129}), precision.kernels.type, 1};
      Problem alone = all;
      alone.cu_seqlens = {0, 300};
      Inputs inputs = inputs_of(all);
      Inputs part{inputs.qkv.row_range(33, 300), inputs.dout.row_range(33, 300)};
      Results whole = run(all, inputs, gpu);
      for (Matrix* x : {&whole.out, &whole.lse, &whole.dq, &whole.dk, &whole.dv}) *x = x->row_range(33, 300);
      check_same(run(alone, part, gpu), whole);
    }
  }
}

// Beyond the range of scaled halves the device takes the tf32 kernels.
TEST_CASE("CUDA attention computes f32 beyond the range of halves in tf32") {
  if (cuda_device_count() == 0) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  for (int64_t head_dim : {64, 128}) {
    CAPTURE(head_dim);
    Problem problem{{8, 2, head_dim}, starts({33, 300}), DType::f32, 1};
    Gpu gpu({DType::f32, MatmulMode::tf32, KernelChoice::fixed});
    Inputs usual = inputs_of(problem);
    auto scaled = [&](int64_t first, int64_t cols, double factor) {
      Inputs inputs = usual;
      for (int64_t row = 0; row < inputs.qkv.rows; ++row)
        for (int64_t c = first; c < first + cols; ++c) inputs.qkv(row, c) *= factor;
      return inputs;
    };
    auto by_warps = [&](const Inputs& inputs) {
      setenv("LLMFT_ATTENTION_BACKWARD", "warps", 1);
      Results results = run(problem, inputs, gpu);
      unsetenv("LLMFT_ATTENTION_BACKWARD");
      return results;
    };
    // but for the order of the sums rowsum(dO O), which moves dS from one tf32 number to the next here and
    // there
    auto check_as_tf32 = [&](const Inputs& inputs) {
      Results got = run(problem, inputs, gpu), want = by_warps(inputs);
      check_near("dq", got.dq, want.dq, kTf32 / 16);
      check_near("dk", got.dk, want.dk, kTf32 / 16);
      CHECK(got.dv.values == want.dv.values);
    };
    int64_t q = problem.q_width(), kv = problem.kv_width();
    check_as_tf32(scaled(q + kv, kv, 0x1p6));
    check_as_tf32(scaled(0, q, 0x1p-20));
    CHECK(run(problem, usual, gpu).dv.values != by_warps(usual).dv.values);
    if (head_dim == 128) continue;
    auto out_of = [&](const char* name, const Inputs& inputs) {
      ForwardKernels forward(name);
      return run(problem, inputs, gpu).out.values;
    };
    Inputs beyond = scaled(q + kv, kv, 0x1p6);
    CHECK(out_of("groups", beyond) == out_of("library", beyond));
    CHECK(out_of("groups", usual) != out_of("library", usual));
  }
}

// For compute-sanitizer: the exact kernels and those on tensor cores, each with and without vector accesses.
namespace {

// The sanitizers' share. Racecheck takes minutes for all of it.
void check_small(DType type, MatmulMode mode, const char* forward_kernels, double roundings, double slack) {
  if (cuda_device_count() == 0) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  auto device = make_cuda_device(0);
  auto ops = make_cuda_ops(*device, mode, KernelChoice::fixed);
  ForwardKernels forward(forward_kernels);
  OpTest test(*ops, type);
  test.most_attention_tokens = 200;
  test.attention_roundings = roundings;
  test.attention_slack = slack;
  test.gaps =
      std::string_view(forward_kernels) == "groups" ? std::vector<int64_t>{0, 8} : std::vector<int64_t>{1, 3};
  run_cases(test, std::vector<OpCase>{{"attention", test_attention},
                                      {"attention_backward", test_attention_backward}});
}

}  // namespace

TEST_CASE("small CUDA: attention on warp groups" * doctest::skip()) {
  check_small(DType::bf16, MatmulMode::f32, "groups", 3, 2e-6);
  check_small(DType::f32, MatmulMode::tf32, "groups", 1, kTf32);
}

TEST_CASE("small CUDA: attention" * doctest::skip()) {
  check_small(DType::bf16, MatmulMode::f32, "library", 3, 2e-6);
  check_small(DType::f32, MatmulMode::tf32, "library", 1, kTf32);
  check_small(DType::f32, MatmulMode::f32, "library", 1, 2e-6);
}
