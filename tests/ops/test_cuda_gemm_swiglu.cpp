// The products that apply SwiGLU on their way out, against the same product and op one after the other: bit
// for bit where every sum is exact, whatever its order, and within rounding where it is not.
#include <cstring>
#include <vector>

#include "llmft/ops/backend.hpp"
#include "ops/gradient_cases.hpp"
#include "ops/wide_cases.hpp"

namespace {

using namespace llmft;
using namespace llmft::test;

bool no_gpu() {
  if (cuda_device_count() > 0) return false;
  MESSAGE("skipped: no GPU on this machine");
  return true;
}

GemmTuning tuning_of(GemmTuning::Swiglu swiglu) {
  GemmTuning tuning;
  tuning.swiglu = swiglu;
  return tuning;
}

struct Both {
  std::unique_ptr<Device> device = make_cuda_device(0);
  std::unique_ptr<Ops> fused, pair;
  Both()
      : fused(make_cuda_ops(*device, MatmulMode::f32, KernelChoice::measured,
                            tuning_of(GemmTuning::Swiglu::fused))),
        pair(make_cuda_ops(*device, MatmulMode::f32, KernelChoice::measured,
                           tuning_of(GemmTuning::Swiglu::pair))) {}
};

enum class Values { exact, normal };

// A matrix on the device with its gaps, and what it was at first.
class Held {
 public:
  Held(Device& device, DType type, int64_t rows, int64_t cols, int64_t gap, Values values, double scale,
       uint64_t stream)
      : device_(device), image_(static_cast<size_t>(rows * (cols + gap))) {
    // a piece of a length that no row shares, again and again
    constexpr size_t kPiece = 100003;
    CounterRng rng(test_seed(), stream);
    std::vector<uint16_t> piece(std::min(kPiece, image_.size()));
    visit_dtype(type, [&]<class S>(S) {
      for (size_t i = 0; i < piece.size(); ++i) {
        double value = values == Values::exact ? static_cast<double>(rng.below(i, 5)) - 2 : rng.normal(i);
        S rounded = from_float<S>(static_cast<float>(scale * value));
        if constexpr (sizeof(S) == 2) std::memcpy(&piece[i], &rounded, 2);
      }
    });
    for (size_t i = 0; i < image_.size(); ++i) image_[i] = piece[i % piece.size()];
    buffer_ = Buffer(device, std::max<size_t>(image_.size() * 2, 16), MemoryPart::workspace);
    tensor_ = {buffer_.data(), type, rows, cols, cols + gap};
    reset();
  }
  const Tensor& tensor() const { return tensor_; }
  void reset() {
    device_.copy_to_device(buffer_.data(), image_.data(), image_.size() * 2);
    device_.synchronize();
  }
  std::vector<uint16_t> words() const {
    std::vector<uint16_t> result(image_.size());
    device_.copy_to_host(result.data(), buffer_.data(), result.size() * 2);
    device_.synchronize();
    return result;
  }
  const std::vector<uint16_t>& image() const { return image_; }

 private:
  Device& device_;
  std::vector<uint16_t> image_;
  Buffer buffer_;
  Tensor tensor_;
};

struct Difference {
  size_t words = 0;     // that differ
  double relative = 0;  // ||a - b|| / ||b||
  std::string first;    // where
};

Difference difference(const Tensor& x, const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
  Difference result;
  if (a == b) return result;
  double squares = 0, size = 0;
  visit_dtype(x.dtype, [&]<class S>(S) {
    for (size_t i = 0; i < a.size(); ++i) {
      if constexpr (sizeof(S) == 2) {
        S left, right;
        std::memcpy(&left, &a[i], 2);
        std::memcpy(&right, &b[i], 2);
        auto l = static_cast<double>(to_float(left)), r = static_cast<double>(to_float(right));
        size += r * r;
        if (a[i] == b[i]) continue;
        squares += (l - r) * (l - r);
        auto ld = static_cast<size_t>(x.ld);
        if (result.words++ == 0)
          result.first = fmt::format("row {} column {}: {} instead of {}", i / ld, i % ld, l, r);
      }
    }
  });
  result.relative = std::sqrt(squares / std::max(size, 1e-300));
  return result;
}

void expect_same(const char* what, const Tensor& x, const std::vector<uint16_t>& fused,
                 const std::vector<uint16_t>& pair, Values values) {
  Difference d = difference(x, fused, pair);
  INFO(fmt::format("{}: {} of {} words differ by {} in all, first {}", what, d.words, pair.size(), d.relative,
                   d.first));
  if (values == Values::exact)
    CHECK(d.words == 0);
  else
    CHECK(d.relative <= 0.1 * unit_roundoff(x.dtype));  // few sums fall on the other side of a rounding
}

struct Shape {
  int64_t tokens, width, inner, gap;
};

void compare(Both& both, DType type, const Shape& s, Values values) {
  INFO(fmt::format("{}, T {} F {} K {}, gap {}, {}, LLMFT_TEST_SEED={}", name_of(type), s.tokens, s.width,
                   s.inner, s.gap, values == Values::exact ? "exact sums" : "normal", test_seed()));
  Device& device = *both.device;
  // sums of K products of size 2: exact to the last bit in f32, gates of size 2
  double w_scale = values == Values::exact ? 0x1p-5 : 1 / std::sqrt(static_cast<double>(s.inner));
  Held x(device, type, s.tokens, s.inner, s.gap, values, 1, 1);
  Held w(device, type, 2 * s.width, s.inner, s.gap, values, w_scale, 2);
  Held gate_up(device, type, s.tokens, 2 * s.width, s.gap, Values::normal, 1, 3);
  Held h(device, type, s.tokens, s.width, s.gap, Values::normal, 1, 4);
  auto forward = [&](Ops& ops) {
    gate_up.reset();
    h.reset();
    ops.matmul_swiglu(x.tensor(), w.tensor(), gate_up.tensor(), h.tensor());
    return std::pair(gate_up.words(), h.words());
  };
  auto fused = forward(*both.fused), pair = forward(*both.pair);
  expect_same("gate_up", gate_up.tensor(), fused.first, pair.first, values);
  expect_same("h", h.tensor(), fused.second, pair.second, values);
  CHECK(forward(*both.fused) == fused);  // repeats bit for bit

  // whatever gate and up became, h is theirs
  both.pair->swiglu(gate_up.tensor(), h.tensor());
  CHECK(h.words() == fused.second);

  Held down(device, type, s.inner, s.width, s.gap, values, w_scale, 5);
  Held dh(device, type, s.tokens, s.width, 0, Values::normal, 1, 6);
  for (bool with_h : {false, true}) {
    auto backward = [&](Ops& ops) {
      gate_up.reset();
      h.reset();
      ops.matmul_swiglu_backward(x.tensor(), down.tensor(), gate_up.tensor(), dh.tensor(),
                                 with_h ? h.tensor() : Tensor{});
      return std::pair(gate_up.words(), h.words());
    };
    auto fused_gradient = backward(*both.fused), pair_gradient = backward(*both.pair);
    expect_same("gradient", gate_up.tensor(), fused_gradient.first, pair_gradient.first, values);
    expect_same("h again", h.tensor(), fused_gradient.second, pair_gradient.second, Values::exact);
  }
  CHECK(x.words() == x.image());
  CHECK(w.words() == w.image());
  CHECK(down.words() == down.image());
}

}  // namespace

TEST_CASE("CUDA: products with SwiGLU, small shapes and tails") {
  if (no_gpu()) return;
  Both both;
  for (int64_t tokens : {1, 128, 257})
    for (int64_t width : {128, 512})
      for (int64_t inner : {8, 200, 2112})
        compare(both, DType::bf16, {tokens, width, inner, inner == 200 ? 8 : 0}, Values::exact);
  for (DType type : {DType::bf16, DType::f16}) {
    compare(both, type, {1000, 512, 64, 0}, Values::exact);
    compare(both, type, {127, 128, 2048, 0}, Values::normal);
    compare(both, type, {1000, 512, 200, 8}, Values::normal);
  }
}

TEST_CASE("CUDA: products with SwiGLU, a model's shapes") {
  if (no_gpu()) return;
  Both both;
  // nine tiles a cluster, a last group of one pair of rows
  compare(both, DType::bf16, {2304, 8192, 2048, 0}, Values::exact);
  compare(both, DType::bf16, {1500, 8192, 2112, 64}, Values::normal);
  compare(both, DType::f16, {600, 8192, 2112, 0}, Values::normal);
  compare(both, DType::bf16, {5000, 640, 264, 16}, Values::exact);
}

TEST_CASE("CUDA ops with products and SwiGLU in one compute their formulas") {
  if (no_gpu()) return;
  Both both;
  const std::vector<OpCase> cases = {{"matmul_swiglu", test_matmul_swiglu},
                                     {"wide matmul_swiglu", wide_matmul_swiglu}};
  auto run = [&](Ops& ops, DType type, const std::vector<int64_t>& gaps) {
    OpTest test(ops, type);
    test.matmul_slack = 4e-6;
    test.gaps = gaps;
    run_cases(test, cases);
  };
  for (DType type : {DType::bf16, DType::f16}) run(*both.fused, type, {0, 64, 8});
  run(*both.fused, DType::bf16, {0, 1, 8, 3});
  run(*both.fused, DType::f32, {0, 64, 8});
  run(*both.pair, DType::bf16, {0, 1, 8, 3});
}

TEST_CASE("CUDA: a deterministic order never measures which way SwiGLU is faster, nor takes the other") {
  if (no_gpu()) return;
  std::unique_ptr<Device> device = make_cuda_device(0);
  auto image = [&](GemmTuning::Swiglu swiglu) {
    auto ops = make_cuda_ops(*device, MatmulMode::f32, KernelChoice::fixed, tuning_of(swiglu));
    Held x(*device, DType::bf16, 512, 2048, 0, Values::normal, 1, 1);
    Held w(*device, DType::bf16, 2048, 2048, 0, Values::normal, 0x1p-5, 2);
    Held gate_up(*device, DType::bf16, 512, 2048, 0, Values::normal, 1, 3);
    Held h(*device, DType::bf16, 512, 1024, 0, Values::normal, 1, 4);
    ops->matmul_swiglu(x.tensor(), w.tensor(), gate_up.tensor(), h.tensor());
    return gate_up.words();
  };
  auto pair = image(GemmTuning::Swiglu::pair);
  CHECK(image(GemmTuning::Swiglu::measured) == pair);
  CHECK(image(GemmTuning::Swiglu::fused) == pair);
}

TEST_CASE("CUDA: whether SwiGLU goes into the product is measured without harm to what is in place") {
  if (no_gpu()) return;
  std::unique_ptr<Device> device = make_cuda_device(0);
  auto measured = make_cuda_ops(*device, MatmulMode::f32, KernelChoice::measured,
                                tuning_of(GemmTuning::Swiglu::measured));
  OpTest test(*measured, DType::bf16);
  test.gaps = {0, 8};
  for (int round = 0; round < 2; ++round) {
    check_matmul_swiglu(test, 300, 256, 128);
    test.finish();
  }
}

// For compute-sanitizer: one tile and its tails.
TEST_CASE("small CUDA: products with SwiGLU" * doctest::skip()) {
  if (no_gpu()) return;
  Both both;
  for (DType type : {DType::bf16, DType::f16}) {
    compare(both, type, {257, 128, 200, 8}, Values::normal);
    compare(both, type, {1, 256, 64, 0}, Values::exact);
  }
}
