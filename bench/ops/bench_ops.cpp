// Speed of the CPU ops. Arguments are (tokens, width) or what the name says; a small model's shapes are four
// heads of 32, width 128, feed-forward 352, 2048 tokens a pack. Bytes are those an op must read and write
// once.
#include <cmath>
#include <deque>
#include <numbers>
#include <vector>

#include <benchmark/benchmark.h>

#include "llmft/base/rng.hpp"
#include "llmft/ops/ops.hpp"

namespace {

using namespace llmft;

// Ops, and matrices of standard normals that live as long.
class Bench {
 public:
  explicit Bench(DType type, MatmulMode mode = MatmulMode::f32, int threads = 1)
      : type_(type), device_(make_cpu_device()), ops_(make_cpu_ops(*device_, mode, threads)) {}

  Ops* operator->() { return ops_.get(); }
  Tensor matrix(int64_t rows, int64_t cols) { return matrix_of(type_, rows, cols); }
  Tensor matrix_of(DType type, int64_t rows, int64_t cols) {
    CounterRng rng(1, buffers_.size());
    size_t bytes = static_cast<size_t>(rows * cols) * size_of(type);
    buffers_.emplace_back(*device_, bytes, MemoryPart::workspace);
    Tensor x = buffers_.back().view(type, rows, cols);
    visit_dtype(type, [&]<class S>(S) {
      for (int64_t i = 0; i < x.numel(); ++i)
        x.row<S>(0)[i] = from_float<S>(static_cast<float>(rng.normal(static_cast<uint64_t>(i))));
    });
    return x;
  }
  // 0, step, 2 step, .. modulo below
  Indices indices(int64_t count, int64_t step, int64_t below) {
    std::vector<int32_t>& list = lists_.emplace_back();
    for (int64_t i = 0; i < count; ++i) list.push_back(static_cast<int32_t>(i * step % below));
    return {list.data(), count};
  }

 private:
  DType type_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::vector<Buffer> buffers_;
  std::deque<std::vector<int32_t>> lists_;
};

void report_bytes(benchmark::State& state, size_t bytes) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(bytes));
}
void report_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void matmul(benchmark::State& state, DType type, MatmulMode mode, int threads) {
  int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  Bench bench(type, mode, threads);
  Tensor a = bench.matrix(m, k), b = bench.matrix(n, k), d = bench.matrix(m, n);
  for (auto _ : state) bench->matmul(Layout::nt, a, b, d);
  report_flops(state, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k));
}

void norm(benchmark::State& state, DType type) {
  int64_t tokens = state.range(0), width = state.range(1);
  Bench bench(type);
  Tensor x = bench.matrix(tokens, width), w = bench.matrix(1, width), y = bench.matrix(tokens, width);
  Tensor rstd = bench.matrix_of(DType::f32, 1, tokens);
  for (auto _ : state) bench->norm(x, w, 1e-5f, {}, y, rstd);
  report_bytes(state, x.bytes() + y.bytes() + rstd.bytes());
}

void norm_backward(benchmark::State& state, DType type) {
  int64_t tokens = state.range(0), width = state.range(1);
  Bench bench(type);
  Tensor x = bench.matrix(tokens, width), w = bench.matrix(1, width), dy = bench.matrix(tokens, width);
  Tensor dx = bench.matrix(tokens, width), y = bench.matrix(tokens, width);
  Tensor rstd = bench.matrix_of(DType::f32, 1, tokens), dw = bench.matrix_of(DType::f32, 1, width);
  bench->norm(x, w, 1e-5f, {}, y, rstd);
  for (auto _ : state) bench->norm_backward(dy, x, w, rstd, {}, dx, dw);
  report_bytes(state, dy.bytes() + x.bytes() + 2 * dx.bytes() + rstd.bytes());
}

void rope(benchmark::State& state, DType type) {
  Bench bench(type);
  Tensor x = bench.matrix(state.range(0), state.range(1)), table = bench.matrix_of(DType::f32, 512, 32);
  for (int64_t i = 0; i < table.numel(); ++i)  // a rotation keeps values from growing or vanishing
    table.row<float>(0)[i] =
        std::sin(static_cast<float>(i % 16 + 1) + (i % 32 < 16 ? std::numbers::pi_v<float> / 2 : 0));
  Indices positions = bench.indices(x.rows, 1, 512);
  for (auto _ : state) {
    bench->rope(x, positions, table, Direction::forward);
    bench->rope(x, positions, table, Direction::backward);
  }
  report_bytes(state, 4 * x.bytes());
}

// Documents of equal length; FLOPs of the pairs of tokens that see each other.
void attention(benchmark::State& state, DType type, Direction direction) {
  int64_t tokens = state.range(0), length = state.range(1);
  AttentionShape shape{4, 2, 32};
  Bench bench(type);
  Tensor q = bench.matrix(tokens, 128), k = bench.matrix(tokens, 64), v = bench.matrix(tokens, 64);
  Tensor out = bench.matrix(tokens, 128), lse = bench.matrix_of(DType::f32, tokens, 4);
  Tensor dq = bench.matrix(tokens, 128), dk = bench.matrix(tokens, 64), dv = bench.matrix(tokens, 64);
  Tensor dout = bench.matrix(tokens, 128);
  Indices cu_seqlens = bench.indices(tokens / length + 1, length, tokens + 1);
  bench->attention(shape, cu_seqlens, q, k, v, out, lse);
  for (auto _ : state)
    if (direction == Direction::forward)
      bench->attention(shape, cu_seqlens, q, k, v, out, lse);
    else
      bench->attention_backward(shape, cu_seqlens, q, k, v, out, lse, dout, dq, dk, dv);
  double pairs = static_cast<double>(tokens) * static_cast<double>(length + 1) / 2;
  report_flops(state, pairs * 4 * 32 * (direction == Direction::forward ? 4 : 10));
}

void swiglu(benchmark::State& state, DType type) {
  Bench bench(type);
  Tensor gate_up = bench.matrix(state.range(0), 2 * state.range(1));
  Tensor h = bench.matrix(state.range(0), state.range(1));
  for (auto _ : state) bench->swiglu(gate_up, h);
  report_bytes(state, gate_up.bytes() + h.bytes());
}

void swiglu_backward(benchmark::State& state, DType type) {
  Bench bench(type);
  Tensor gate_up = bench.matrix(state.range(0), 2 * state.range(1));
  Tensor dh = bench.matrix(state.range(0), state.range(1)), h = bench.matrix(state.range(0), state.range(1));
  Tensor fresh = bench.matrix(state.range(0), 2 * state.range(1));
  for (auto _ : state) {
    state.PauseTiming();
    bench->convert(fresh, gate_up);
    state.ResumeTiming();
    bench->swiglu_backward(dh, gate_up, h);
  }
  report_bytes(state, 2 * gate_up.bytes() + dh.bytes() + h.bytes());
}

void cross_entropy(benchmark::State& state, DType type) {
  Bench bench(type);
  Tensor logits = bench.matrix(state.range(0), state.range(1));
  Tensor loss = bench.matrix_of(DType::f32, 1, state.range(0));
  Indices targets = bench.indices(logits.rows, 7, logits.cols);
  for (auto _ : state) bench->cross_entropy(logits, targets, 1, loss, LossMode::loss_and_gradient);
  report_bytes(state, 2 * logits.bytes());
}

void embed(benchmark::State& state, DType type) {
  Bench bench(type);
  Tensor table = bench.matrix(4096, state.range(1)), x = bench.matrix(state.range(0), state.range(1));
  Indices tokens = bench.indices(x.rows, 37, table.rows);
  for (auto _ : state) bench->embed(tokens, table, x);
  report_bytes(state, 2 * x.bytes());
}

void embed_backward(benchmark::State& state, DType type) {
  Bench bench(type);
  Tensor dtable = bench.matrix_of(DType::f32, 4096, state.range(1));
  Tensor dx = bench.matrix(state.range(0), state.range(1));
  Indices tokens = bench.indices(dx.rows, 37, dtable.rows);
  for (auto _ : state) bench->embed_backward(tokens, dx, dtable);
  report_bytes(state, dx.bytes() + 2 * static_cast<size_t>(dx.numel()) * sizeof(float));
}

void convert(benchmark::State& state, DType from, DType to) {
  Bench bench(from);
  Tensor x = bench.matrix(1, state.range(0)), y = bench.matrix_of(to, 1, state.range(0));
  for (auto _ : state) bench->convert(x, y);
  report_bytes(state, x.bytes() + y.bytes());
}

void add(benchmark::State& state) {
  Bench bench(DType::f32);
  Tensor x = bench.matrix(1, state.range(0)), y = bench.matrix(1, state.range(0));
  for (auto _ : state) bench->add(x, y);
  report_bytes(state, 3 * x.bytes());
}

void chunk_sum_squares(benchmark::State& state) {
  Bench bench(DType::f32);
  Tensor x = bench.matrix(1, state.range(0));
  std::vector<double> sums(static_cast<size_t>((x.numel() + 4095) / 4096));
  Tensor out = matrix_view(sums.data(), 1, static_cast<int64_t>(sums.size()));
  for (auto _ : state) bench->chunk_sum_squares(x, 4096, out);
  report_bytes(state, x.bytes());
}

void adamw(benchmark::State& state) {
  Bench bench(DType::f32);
  Tensor p = bench.matrix(1, state.range(0)), m = bench.matrix(1, state.range(0));
  Tensor v = bench.matrix(1, state.range(0)), grad = bench.matrix(1, state.range(0));
  bench->device().zero(v.data, v.bytes());
  AdamWParams params{1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f};
  UpdateState ready{.apply = 1, .grad_scale = 1, .correction1 = 0.5, .correction2 = 0.5};
  Tensor counters = matrix_view(reinterpret_cast<double*>(&ready), 1, kUpdateFields);
  for (auto _ : state) bench->adamw(params, counters, p, m, v, grad);
  report_bytes(state, 7 * p.bytes());
}

}  // namespace

#define EACH_DTYPE(op, ...)                             \
  BENCHMARK_CAPTURE(op, fp32, DType::f32) __VA_ARGS__;  \
  BENCHMARK_CAPTURE(op, bf16, DType::bf16) __VA_ARGS__; \
  BENCHMARK_CAPTURE(op, fp16, DType::f16) __VA_ARGS__

BENCHMARK_CAPTURE(matmul, fp32, DType::f32, MatmulMode::f32, 1)
    ->Args({2048, 128, 128})
    ->Args({2048, 704, 128})
    ->Args({1024, 1024, 1024});
// rates are per CPU time of the calling thread, which says nothing where there are two
BENCHMARK_CAPTURE(matmul, fp32_2_threads, DType::f32, MatmulMode::f32, 2)
    ->Args({1024, 1024, 1024})
    ->UseRealTime();
BENCHMARK_CAPTURE(matmul, tf32, DType::f32, MatmulMode::tf32, 1)
    ->Args({2048, 704, 128})
    ->Args({1024, 1024, 1024});
BENCHMARK_CAPTURE(matmul, bf16, DType::bf16, MatmulMode::f32, 1)
    ->Args({2048, 704, 128})
    ->Args({1024, 1024, 1024});
BENCHMARK_CAPTURE(matmul, fp16, DType::f16, MatmulMode::f32, 1)
    ->Args({2048, 704, 128})
    ->Args({1024, 1024, 1024});
EACH_DTYPE(norm, ->Args({2048, 128})->Args({2048, 2048}));
EACH_DTYPE(norm_backward, ->Args({2048, 128})->Args({2048, 2048}));
EACH_DTYPE(rope, ->Args({2048, 128}));
BENCHMARK_CAPTURE(attention, fp32_forward, DType::f32, Direction::forward)
    ->Args({2048, 64})
    ->Args({2048, 128})
    ->Args({2048, 1024});
BENCHMARK_CAPTURE(attention, fp32_backward, DType::f32, Direction::backward)
    ->Args({2048, 64})
    ->Args({2048, 128})
    ->Args({2048, 1024});
BENCHMARK_CAPTURE(attention, bf16_forward, DType::bf16, Direction::forward)->Args({2048, 128});
BENCHMARK_CAPTURE(attention, bf16_backward, DType::bf16, Direction::backward)->Args({2048, 128});
EACH_DTYPE(swiglu, ->Args({2048, 352}));
EACH_DTYPE(swiglu_backward, ->Args({2048, 352}));
EACH_DTYPE(cross_entropy, ->Args({1024, 4096}));
EACH_DTYPE(embed, ->Args({2048, 128}));
EACH_DTYPE(embed_backward, ->Args({2048, 128}));
BENCHMARK_CAPTURE(convert, fp32_to_bf16, DType::f32, DType::bf16)->Arg(1 << 20);
BENCHMARK_CAPTURE(convert, bf16_to_fp32, DType::bf16, DType::f32)->Arg(1 << 20);
BENCHMARK_CAPTURE(convert, fp32_to_fp16, DType::f32, DType::f16)->Arg(1 << 20);
BENCHMARK_CAPTURE(convert, fp16_to_fp32, DType::f16, DType::f32)->Arg(1 << 20);
BENCHMARK(add)->Arg(1 << 20);
BENCHMARK(chunk_sum_squares)->Arg(1 << 20);
BENCHMARK(adamw)->Arg(1400000);
