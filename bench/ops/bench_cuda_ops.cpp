// Speed of the CUDA ops at the shapes of Llama 3.2 1B: width 2048, 32 query and 8 key heads of 64,
// feed-forward 8192, 128,256 classes, 64 adapter columns. A measurement is the mean over launches one after
// another, so it has no launch gaps; tensors are larger than the cache, except where the op's own are not.
// Bytes are those an op must read and write once. Without a GPU every benchmark says so.
#include <algorithm>

#include "gpu_bench.hpp"

namespace {

using namespace llmft;

constexpr int64_t kWidth = 2048, kQkv = 3072, kRotated = 2560, kFeed = 8192, kClasses = 128256, kTail = 64;

void report_bytes(benchmark::State& state, size_t bytes) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes));
}

void cuda_norm(benchmark::State& state, DType type, int64_t tail) {
  if (no_gpu(state)) return;
  int64_t tokens = state.range(0);
  GpuBench bench(type);
  Tensor x = bench.matrix(tokens, kWidth), w = bench.matrix(1, kWidth);
  Tensor a = tail == 0 ? Tensor{} : bench.matrix(tail, kWidth), y = bench.matrix(tokens, kWidth + tail);
  Tensor rstd = bench.matrix_of(DType::f32, 1, tokens);
  bench.measure(state, [&] { bench->norm(x, w, 1e-5f, a, y, rstd); });
  report_bytes(state, x.bytes() + y.bytes() + rstd.bytes());
}

void cuda_norm_backward(benchmark::State& state, DType type, int64_t tail, bool with_dw) {
  if (no_gpu(state)) return;
  int64_t tokens = state.range(0);
  GpuBench bench(type);
  Tensor x = bench.matrix(tokens, kWidth), w = bench.matrix(1, kWidth), dy = bench.matrix(tokens, kWidth);
  Tensor b = tail == 0 ? Tensor{} : bench.matrix(kWidth, tail), dx = bench.matrix(tokens, kWidth + tail);
  Tensor y = bench.matrix(tokens, kWidth), rstd = bench.matrix_of(DType::f32, 1, tokens);
  Tensor dw = with_dw ? bench.matrix_of(DType::f32, 1, kWidth) : Tensor{};
  bench->norm(x, w, 1e-5f, {}, y, rstd);
  bench.measure(state, [&] { bench->norm_backward(dy, x, w, rstd, b, dx, dw); });
  report_bytes(state, dy.bytes() + x.bytes() + 2 * dx.bytes() + rstd.bytes());
}

void cuda_rope(benchmark::State& state, DType type) {
  if (no_gpu(state)) return;
  GpuBench bench(type);
  Tensor qkv = bench.matrix(state.range(0), kQkv), x = qkv.col_range(0, kRotated);
  Tensor table = bench.matrix_of(DType::f32, 1024, 64);
  bench->convert(table, table, 0.1f);  // values shrink rather than overflow
  Indices positions = bench.indices(x.rows, 1, 1024);
  bench.measure(state, [&] { bench->rope(x, positions, table, Direction::forward); });
  report_bytes(state, 2 * x.bytes());
}

void cuda_swiglu(benchmark::State& state, DType type) {
  if (no_gpu(state)) return;
  GpuBench bench(type);
  Tensor gate_up = bench.matrix(state.range(0), 2 * kFeed), h = bench.matrix(state.range(0), kFeed);
  bench.measure(state, [&] { bench->swiglu(gate_up, h); });
  report_bytes(state, gate_up.bytes() + h.bytes());
}

void cuda_swiglu_backward(benchmark::State& state, DType type, bool with_h) {
  if (no_gpu(state)) return;
  GpuBench bench(type);
  Tensor gate_up = bench.matrix(state.range(0), 2 * kFeed), dh = bench.matrix(state.range(0), kFeed);
  Tensor h = with_h ? bench.matrix(state.range(0), kFeed) : Tensor{};
  bench.measure(state, [&] { bench->swiglu_backward(dh, gate_up, h); });
  report_bytes(state, 2 * gate_up.bytes() + dh.bytes() + h.bytes());
}

void cuda_cross_entropy(benchmark::State& state, DType type, LossMode mode) {
  if (no_gpu(state)) return;
  GpuBench bench(type);
  Tensor logits = bench.matrix(state.range(0), kClasses), loss = bench.matrix_of(DType::f32, 1, logits.rows);
  Indices targets = bench.indices(logits.rows, 61, kClasses);
  bench.measure(state, [&] { bench->cross_entropy(logits, targets, 1, loss, mode); });
  report_bytes(state, (mode == LossMode::loss_only ? 1 : 2) * logits.bytes());
}

void cuda_embed(benchmark::State& state, DType type) {
  if (no_gpu(state)) return;
  GpuBench bench(type);
  Tensor table = bench.matrix(kClasses, kWidth), x = bench.matrix(state.range(0), kWidth);
  Indices tokens = bench.indices(x.rows, 37, kClasses);
  bench.measure(state, [&] { bench->embed(tokens, table, x); });
  report_bytes(state, 2 * x.bytes());
}

void cuda_embed_backward(benchmark::State& state, DType type, int64_t kinds) {
  if (no_gpu(state)) return;
  GpuBench bench(type);
  Tensor dtable = bench.matrix_of(DType::f32, kClasses, kWidth), dx = bench.matrix(state.range(0), kWidth);
  Indices tokens = bench.indices(dx.rows, 37, kinds);
  bench.measure(state, [&] { bench->embed_backward(tokens, dx, dtable); });
  report_bytes(state,
               dx.bytes() + 2 * sizeof(float) * static_cast<size_t>(std::min(kinds, dx.rows) * kWidth));
}

void cuda_scatter_rows(benchmark::State& state, DType type) {
  if (no_gpu(state)) return;
  GpuBench bench(type);
  Tensor y = bench.matrix(state.range(0) / 2, kWidth), x = bench.matrix(state.range(0), kWidth);
  Indices rows = bench.indices(y.rows, 2, x.rows);
  bench.measure(state, [&] { bench->scatter_rows(y, rows, x); });
  report_bytes(state, y.bytes() + x.bytes());
}

void cuda_convert(benchmark::State& state, DType from, DType to) {
  if (no_gpu(state)) return;
  GpuBench bench(from);
  Tensor x = bench.matrix(1, state.range(0)), y = bench.matrix_of(to, 1, state.range(0));
  bench.measure(state, [&] { bench->convert(x, y, 0.5f); });
  report_bytes(state, x.bytes() + y.bytes());
}

void cuda_add(benchmark::State& state) {
  if (no_gpu(state)) return;
  GpuBench bench(DType::f32);
  Tensor x = bench.matrix(1, state.range(0)), y = bench.matrix(1, state.range(0));
  bench.measure(state, [&] { bench->add(x, y); });
  report_bytes(state, 3 * x.bytes());
}

void cuda_chunk_sum_squares(benchmark::State& state) {
  if (no_gpu(state)) return;
  GpuBench bench(DType::f32);
  Tensor x = bench.matrix(1, state.range(0));
  Buffer sums(bench->device(), static_cast<size_t>((x.numel() + 65535) / 65536) * 8, MemoryPart::workspace);
  Tensor out = sums.view(DType::f64, 1, (x.numel() + 65535) / 65536);
  bench.measure(state, [&] { bench->chunk_sum_squares(x, 65536, out); });
  report_bytes(state, x.bytes());
}

void cuda_adamw(benchmark::State& state) {
  if (no_gpu(state)) return;
  GpuBench bench(DType::f32);
  int64_t size = state.range(0);
  Tensor p = bench.matrix(1, size), m = bench.matrix(1, size), v = bench.matrix(1, size);
  Tensor grad = bench.matrix(1, size);
  bench->device().zero(v.data, v.bytes());
  AdamWParams params{1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f};
  Buffer update(bench->device(), sizeof(UpdateState), MemoryPart::workspace);
  UpdateState ready{.apply = 1, .grad_scale = 1, .correction1 = 0.5, .correction2 = 0.5};
  bench->device().copy_to_device(update.data(), &ready, sizeof ready);
  Tensor counters = update.view(DType::f64, 1, kUpdateFields);
  bench.measure(state, [&] { bench->adamw(params, counters, p, m, v, grad); });
  report_bytes(state, 7 * p.bytes());
}

// Arguments: tokens, N, K of the linear. tail: adapter columns that ride along. beta: residual or gradient
// added.
void cuda_matmul(benchmark::State& state, DType type, MatmulMode mode, Layout layout, int64_t tail,
                 float beta) {
  if (no_gpu(state)) return;
  int64_t tokens = state.range(0), n = state.range(1), k = state.range(2);
  GpuBench bench(type, mode);
  Tensor a, b, d;
  if (layout == Layout::nt) {
    a = bench.matrix(tokens, k + tail);
    b = bench.matrix(n, k + tail);
    d = bench.matrix(tokens, n);
  } else if (layout == Layout::nn) {
    a = bench.matrix(tokens, n + tail);
    b = bench.matrix(n + tail, k + tail).col_range(0, k);
    d = bench.matrix(tokens, k);
  } else {
    a = bench.matrix(tokens, n);
    b = bench.matrix(tokens, k);
    d = bench.matrix_of(DType::f32, n, k);
  }
  Tensor c = beta == 0 ? Tensor{} : layout == Layout::tn ? d : bench.matrix(d.rows, d.cols);
  if (layout == Layout::tn && beta != 0) bench->convert(d, d, 0.0f);
  bench.measure(state, [&] { bench->matmul(layout, a, b, d, 1, beta, c); });
  double inner = static_cast<double>(layout == Layout::nt   ? k + tail
                                     : layout == Layout::nn ? n + tail
                                                            : tokens);
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * static_cast<double>(d.rows) * static_cast<double>(d.cols) * inner,
                         benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

#define GPU_BENCH(op, name, ...) \
  BENCHMARK_CAPTURE(op, name, __VA_ARGS__)->UseManualTime()->Iterations(5)->Unit(benchmark::kMicrosecond)
#define EACH_GPU_DTYPE(op, args, ...)                                     \
  GPU_BENCH(op, bf16, DType::bf16 __VA_OPT__(, ) __VA_ARGS__)->Arg(args); \
  GPU_BENCH(op, fp16, DType::f16 __VA_OPT__(, ) __VA_ARGS__)->Arg(args);  \
  GPU_BENCH(op, fp32, DType::f32 __VA_OPT__(, ) __VA_ARGS__)->Arg(args)

EACH_GPU_DTYPE(cuda_norm, 16384, 0);
GPU_BENCH(cuda_norm, bf16_tail, DType::bf16, kTail)->Arg(16384);
EACH_GPU_DTYPE(cuda_norm_backward, 16384, 0, false);
GPU_BENCH(cuda_norm_backward, bf16_tail, DType::bf16, kTail, false)->Arg(16384);
GPU_BENCH(cuda_norm_backward, bf16_dw, DType::bf16, 0, true)->Arg(16384);
EACH_GPU_DTYPE(cuda_rope, 16384);
EACH_GPU_DTYPE(cuda_swiglu, 16384);
EACH_GPU_DTYPE(cuda_swiglu_backward, 16384, false);
GPU_BENCH(cuda_swiglu_backward, bf16_h, DType::bf16, true)->Arg(16384);
EACH_GPU_DTYPE(cuda_cross_entropy, 2048, LossMode::loss_and_gradient);
GPU_BENCH(cuda_cross_entropy, bf16_loss, DType::bf16, LossMode::loss_only)->Arg(2048);
EACH_GPU_DTYPE(cuda_embed, 16384);
GPU_BENCH(cuda_embed_backward, bf16_distinct, DType::bf16, kClasses)->Arg(16384);
GPU_BENCH(cuda_embed_backward, bf16_64_kinds, DType::bf16, 64)->Arg(16384);
EACH_GPU_DTYPE(cuda_scatter_rows, 16384);
GPU_BENCH(cuda_convert, fp32_to_bf16, DType::f32, DType::bf16)->Arg(60817408);
GPU_BENCH(cuda_convert, bf16_to_fp32, DType::bf16, DType::f32)->Arg(60817408);
BENCHMARK(cuda_add)->UseManualTime()->Iterations(5)->Unit(benchmark::kMicrosecond)->Arg(60817408);
BENCHMARK(cuda_chunk_sum_squares)
    ->UseManualTime()
    ->Iterations(5)
    ->Unit(benchmark::kMicrosecond)
    ->Arg(60817408);
BENCHMARK(cuda_adamw)
    ->UseManualTime()
    ->Iterations(5)
    ->Unit(benchmark::kMicrosecond)
    ->Arg(60817408)
    ->Arg(2752512);

#define LINEARS ->Args({8192, 3072, 2048})->Args({8192, 16384, 2048})->Args({8192, 2048, 8192})
GPU_BENCH(cuda_matmul, bf16_forward, DType::bf16, MatmulMode::f32, Layout::nt, 0, 0.0f) LINEARS;
GPU_BENCH(cuda_matmul, bf16_forward_tail, DType::bf16, MatmulMode::f32, Layout::nt, kTail, 0.0f)
    ->Args({8192, 3072, 2048});
GPU_BENCH(cuda_matmul, bf16_forward_tail_residual, DType::bf16, MatmulMode::f32, Layout::nt, kTail, 1.0f)
    ->Args({8192, 2048, 2048});
GPU_BENCH(cuda_matmul, bf16_dgrad, DType::bf16, MatmulMode::f32, Layout::nn, 0, 0.0f) LINEARS;
GPU_BENCH(cuda_matmul, bf16_dgrad_tail, DType::bf16, MatmulMode::f32, Layout::nn, kTail, 0.0f)
    ->Args({8192, 3072, 2048});
GPU_BENCH(cuda_matmul, bf16_wgrad, DType::bf16, MatmulMode::f32, Layout::tn, 0, 1.0f) LINEARS;
GPU_BENCH(cuda_matmul, bf16_head, DType::bf16, MatmulMode::f32, Layout::nt, 0, 0.0f)
    ->Args({2048, 128256, 2048});
GPU_BENCH(cuda_matmul, bf16_head_dgrad, DType::bf16, MatmulMode::f32, Layout::nn, 0, 0.0f)
    ->Args({512, 128256, 2048})
    ->Args({1536, 128256, 2048})
    ->Args({2048, 128256, 2048});
GPU_BENCH(cuda_matmul, bf16_adapter_a, DType::bf16, MatmulMode::f32, Layout::nt, 0, 0.0f)
    ->Args({8192, 64, 2048});
GPU_BENCH(cuda_matmul, bf16_adapter_gradient, DType::bf16, MatmulMode::f32, Layout::tn, 0, 1.0f)
    ->Args({8192, 16, 2048})
    ->Args({8192, 2048, 16});
GPU_BENCH(cuda_matmul, fp16_forward, DType::f16, MatmulMode::f32, Layout::nt, 0, 0.0f) LINEARS;
GPU_BENCH(cuda_matmul, tf32_forward, DType::f32, MatmulMode::tf32, Layout::nt, 0, 0.0f) LINEARS;
GPU_BENCH(cuda_matmul, tf32_dgrad, DType::f32, MatmulMode::tf32, Layout::nn, 0, 0.0f) LINEARS;
GPU_BENCH(cuda_matmul, fp32_forward, DType::f32, MatmulMode::f32, Layout::nt, 0, 0.0f)
    ->Args({8192, 3072, 2048});
