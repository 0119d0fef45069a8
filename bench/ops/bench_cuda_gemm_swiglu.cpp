// Products with SwiGLU at the shapes of Llama 3.2 1B (width 2048, feed-forward 8192): the library's product
// alone, product and op one after the other, both in one kernel. FLOP/s count the product. A measurement is
// the mean over launches one after another. Without a GPU every benchmark says so.
#include "gpu_bench.hpp"

namespace {

using namespace llmft;

constexpr int64_t kWidth = 2048, kFeed = 8192;

enum class How { product_alone, pair, fused };

GemmTuning tuning_of(How how) {
  GemmTuning tuning;
  tuning.candidates = 16;
  tuning.swiglu = how == How::fused ? GemmTuning::Swiglu::fused : GemmTuning::Swiglu::pair;
  return tuning;
}

void report_flops(benchmark::State& state, int64_t tokens, int64_t flops_per_token) {
  state.counters["FLOP/s"] =
      benchmark::Counter(static_cast<double>(tokens) * static_cast<double>(flops_per_token),
                         benchmark::Counter::kIsIterationInvariantRate);
}

void cuda_gate_up_swiglu(benchmark::State& state, DType type, How how) {
  if (no_gpu(state)) return;
  int64_t tokens = state.range(0);
  GpuBench bench(type, MatmulMode::f32, tuning_of(how));
  Tensor x = bench.matrix(tokens, kWidth, 1), w = bench.matrix(2 * kFeed, kWidth, 0.02);
  Tensor gate_up = bench.matrix(tokens, 2 * kFeed, 1), h = bench.matrix(tokens, kFeed, 1);
  bench.measure(state, [&] {
    if (how == How::product_alone)
      bench->matmul(Layout::nt, x, w, gate_up);
    else
      bench->matmul_swiglu(x, w, gate_up, h);
  });
  report_flops(state, tokens, 2 * kWidth * 2 * kFeed);
}

void cuda_down_swiglu_backward(benchmark::State& state, DType type, How how, bool with_h) {
  if (no_gpu(state)) return;
  int64_t tokens = state.range(0);
  GpuBench bench(type, MatmulMode::f32, tuning_of(how));
  Tensor dy = bench.matrix(tokens, kWidth, 1), w = bench.matrix(kWidth, kFeed, 0.02);
  Tensor gate_up = bench.matrix(tokens, 2 * kFeed, 1), dh = bench.matrix(tokens, kFeed, 1);
  Tensor h = with_h ? bench.matrix(tokens, kFeed, 1) : Tensor{};
  bench.measure(state, [&] {
    if (how == How::product_alone)
      bench->matmul(Layout::nn, dy, w, dh);
    else
      bench->matmul_swiglu_backward(dy, w, gate_up, dh, h);
  });
  report_flops(state, tokens, 2 * kWidth * kFeed);
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
