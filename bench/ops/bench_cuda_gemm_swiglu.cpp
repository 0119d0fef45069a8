// Products with SwiGLU at the shapes of Llama 3.2 1B (width 2048, feed-forward 8192): the library's product
// alone, product and op one after the other, both in one kernel. FLOP/s count the product. A measurement is
// the mean over launches one after another. Without a GPU every benchmark says so.
#include <cstring>
#include <functional>
#include <vector>

#include <benchmark/benchmark.h>

#include "llmft/base/clock.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/ops/backend.hpp"

namespace {

using namespace llmft;

constexpr int64_t kWidth = 2048, kFeed = 8192;

enum class How { product_alone, pair, fused };

class SwigluBench {
 public:
  SwigluBench(DType type, How how)
      : type_(type),
        device_(make_cuda_device(0)),
        ops_(make_cuda_ops(*device_, MatmulMode::f32, KernelChoice::measured, tuning_of(how))) {}

  Ops& ops() { return *ops_; }
  // Standard normals times scale: a piece made on the host, then copied on and on.
  Tensor matrix(int64_t rows, int64_t cols, double scale) {
    size_t bytes = static_cast<size_t>(rows * cols) * size_of(type_);
    buffers_.emplace_back(*device_, bytes, MemoryPart::workspace);
    auto* data = static_cast<std::byte*>(buffers_.back().data());
    size_t filled = std::min(bytes, size_t{1} << 20);
    std::vector<std::byte> piece(filled);
    CounterRng rng(1, buffers_.size());
    visit_dtype(type_, [&]<class S>(S) {
      for (size_t i = 0; i < filled / sizeof(S); ++i) {
        S value = from_float<S>(static_cast<float>(scale * rng.normal(i)));
        std::memcpy(piece.data() + i * sizeof(S), &value, sizeof(S));
      }
    });
    device_->copy_to_device(data, piece.data(), filled);
    for (; filled < bytes; filled += std::min(filled, bytes - filled))
      device_->copy(data + filled, data, std::min(filled, bytes - filled));
    device_->synchronize();
    return buffers_.back().view(type_, rows, cols);
  }

  void measure(benchmark::State& state, int64_t tokens, int64_t flops_per_token,
               const std::function<void()>& op) {
    constexpr int launches = 30;
    for (int i = 0; i < 3; ++i) op();
    device_->synchronize();
    for (auto _ : state) {
      Stopwatch watch;
      for (int i = 0; i < launches; ++i) op();
      device_->synchronize();
      state.SetIterationTime(watch.seconds() / launches);
    }
    state.counters["FLOP/s"] =
        benchmark::Counter(static_cast<double>(tokens) * static_cast<double>(flops_per_token),
                           benchmark::Counter::kIsIterationInvariantRate);
  }

 private:
  static GemmTuning tuning_of(How how) {
    GemmTuning tuning;
    tuning.candidates = 16;
    tuning.swiglu = how == How::fused ? GemmTuning::Swiglu::fused : GemmTuning::Swiglu::pair;
    return tuning;
  }

  DType type_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::vector<Buffer> buffers_;
};

bool no_gpu(benchmark::State& state) {
  if (cuda_device_count() > 0) return false;
  state.SkipWithError("no GPU on this machine");
  return true;
}

void cuda_gate_up_swiglu(benchmark::State& state, DType type, How how) {
  if (no_gpu(state)) return;
  int64_t tokens = state.range(0);
  SwigluBench bench(type, how);
  Tensor x = bench.matrix(tokens, kWidth, 1), w = bench.matrix(2 * kFeed, kWidth, 0.02);
  Tensor gate_up = bench.matrix(tokens, 2 * kFeed, 1), h = bench.matrix(tokens, kFeed, 1);
  bench.measure(state, tokens, 2 * kWidth * 2 * kFeed, [&] {
    if (how == How::product_alone)
      bench.ops().matmul(Layout::nt, x, w, gate_up);
    else
      bench.ops().matmul_swiglu(x, w, gate_up, h);
  });
}

void cuda_down_swiglu_backward(benchmark::State& state, DType type, How how, bool with_h) {
  if (no_gpu(state)) return;
  int64_t tokens = state.range(0);
  SwigluBench bench(type, how);
  Tensor dy = bench.matrix(tokens, kWidth, 1), w = bench.matrix(kWidth, kFeed, 0.02);
  Tensor gate_up = bench.matrix(tokens, 2 * kFeed, 1), dh = bench.matrix(tokens, kFeed, 1);
  Tensor h = with_h ? bench.matrix(tokens, kFeed, 1) : Tensor{};
  bench.measure(state, tokens, 2 * kWidth * kFeed, [&] {
    if (how == How::product_alone)
      bench.ops().matmul(Layout::nn, dy, w, dh);
    else
      bench.ops().matmul_swiglu_backward(dy, w, gate_up, dh, h);
  });
}

}  // namespace

#define SWIGLU_BENCH(op, name, ...)        \
  BENCHMARK_CAPTURE(op, name, __VA_ARGS__) \
      ->UseManualTime()                    \
      ->Iterations(3)                      \
      ->Unit(benchmark::kMillisecond)      \
      ->Arg(8192)                          \
      ->Arg(16384)

SWIGLU_BENCH(cuda_gate_up_swiglu, bf16_product_alone, DType::bf16, How::product_alone);
SWIGLU_BENCH(cuda_gate_up_swiglu, bf16_pair, DType::bf16, How::pair);
SWIGLU_BENCH(cuda_gate_up_swiglu, bf16_fused, DType::bf16, How::fused);
SWIGLU_BENCH(cuda_down_swiglu_backward, bf16_product_alone, DType::bf16, How::product_alone, false);
SWIGLU_BENCH(cuda_down_swiglu_backward, bf16_pair, DType::bf16, How::pair, false);
SWIGLU_BENCH(cuda_down_swiglu_backward, bf16_fused, DType::bf16, How::fused, false);
SWIGLU_BENCH(cuda_down_swiglu_backward, bf16_fused_with_h, DType::bf16, How::fused, true);
