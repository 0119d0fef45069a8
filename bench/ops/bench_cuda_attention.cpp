// Attention alone, at the shapes of Llama 3.2 1B (32 query and 8 key heads of 64) and at heads of 128: Q, K
// and V beside each other in rows of N, as training lays them out. "library" is cuDNN, "own" this project's
// kernels on warps for the same tensors (16 bits: lse rows one element apart from each other, which the
// library does not take), "halves" and "groups" those of these names (attention.cpp). FLOPs are those of the
// pairs that the mask leaves, 4 D a pair forward and 10 D backward. us_token_16: microseconds a token in 16
// layers.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "llmft/base/clock.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/ops/backend.hpp"

namespace {

using namespace llmft;

struct Pack {
  const char* name;
  std::vector<int32_t> cu_seqlens;
};

Pack equal(const char* name, int count, int length) {
  Pack pack{name, {0}};
  for (int i = 1; i <= count; ++i) pack.cu_seqlens.push_back(i * length);
  return pack;
}
// Lengths drawn like those of OpenOrca's samples: lognormal, median 320, at most 2048.
Pack chat_like(int tokens) {
  Pack pack{"chat 8192", {0}};
  CounterRng rng(5, 0);
  for (uint64_t i = 0; pack.cu_seqlens.back() < tokens; ++i) {
    auto length = static_cast<int32_t>(std::clamp(320 * std::exp(0.8 * rng.normal(i)), 16.0, 2048.0));
    pack.cu_seqlens.push_back(std::min(pack.cu_seqlens.back() + length, tokens));
  }
  return pack;
}

struct Setting {
  std::string name;
  DType type;
  MatmulMode mode;
  int64_t lse_gap;
  const char* products = "warps";
};

void attention(benchmark::State& state, const Setting& setting, const Pack& pack, const AttentionShape& shape,
               Direction direction) {
  if (cuda_device_count() == 0) {
    state.SkipWithError("no GPU on this machine");
    return;
  }
  setenv("LLMFT_ATTENTION_BACKWARD", setting.products, 1);
  setenv("LLMFT_ATTENTION_FORWARD", setting.products, 1);
  auto device = make_cuda_device(0);
  auto ops = make_cuda_ops(*device, setting.mode, KernelChoice::fixed);
  std::vector<Buffer> buffers;
  int64_t tokens = pack.cu_seqlens.back();
  int64_t q_width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  auto make = [&](DType type, int64_t cols, int64_t gap) {
    size_t element = size_of(type), bytes = static_cast<size_t>(tokens * (cols + gap)) * element;
    buffers.emplace_back(*device, bytes, MemoryPart::workspace);
    // standard normals: a piece made on the host, then copied on and on
    auto* data = static_cast<std::byte*>(buffers.back().data());
    size_t filled = std::min(bytes, size_t{1} << 18);
    std::vector<std::byte> piece(filled);
    CounterRng rng(1, buffers.size());
    visit_dtype(type, [&]<class S>(S) {
      for (size_t i = 0; i < filled / element; ++i) {
        S value = from_float<S>(static_cast<float>(rng.normal(i)));
        std::memcpy(piece.data() + i * element, &value, element);
      }
    });
    device->copy_to_device(data, piece.data(), filled);
    for (; filled < bytes; filled += std::min(filled, bytes - filled))
      device->copy(data + filled, data, std::min(filled, bytes - filled));
    device->synchronize();
    return buffers.back().view(type, tokens, cols + gap).col_range(0, cols);
  };
  int64_t width = q_width + 2 * kv_width;
  Tensor qkv = make(setting.type, width, 0), dqkv = make(setting.type, width, 64);
  Tensor out = make(setting.type, q_width, 64), dout = make(setting.type, q_width, 64);
  Tensor lse = make(DType::f32, shape.heads, setting.lse_gap);
  buffers.emplace_back(*device, pack.cu_seqlens.size() * sizeof(int32_t), MemoryPart::workspace);
  device->copy_to_device(buffers.back().data(), pack.cu_seqlens.data(), buffers.back().bytes());
  Indices documents{static_cast<const int32_t*>(buffers.back().data()),
                    static_cast<int64_t>(pack.cu_seqlens.size())};
  auto q = [&](const Tensor& x) { return x.col_range(0, q_width); };
  auto k = [&](const Tensor& x) { return x.col_range(q_width, kv_width); };
  auto v = [&](const Tensor& x) { return x.col_range(q_width + kv_width, kv_width); };
  auto forward = [&] { ops->attention(shape, documents, q(qkv), k(qkv), v(qkv), out, lse); };
  auto backward = [&] {
    ops->attention_backward(shape, documents, q(qkv), k(qkv), v(qkv), out, lse, dout, q(dqkv), k(dqkv),
                            v(dqkv));
  };
  forward();
  auto op = [&] { direction == Direction::forward ? forward() : backward(); };
  constexpr int kLaunches = 10;
  for (int i = 0; i < 3; ++i) op();
  device->synchronize();
  double seconds = 0;
  for (auto _ : state) {
    Stopwatch watch;
    for (int i = 0; i < kLaunches; ++i) op();
    device->synchronize();
    state.SetIterationTime(watch.seconds() / kLaunches);
    seconds += watch.seconds() / kLaunches;
  }
  seconds /= static_cast<double>(state.iterations());
  double pairs = 0;
  for (size_t i = 1; i < pack.cu_seqlens.size(); ++i) {
    double length = pack.cu_seqlens[i] - pack.cu_seqlens[i - 1];
    pairs += length * (length + 1) / 2;
  }
  double flops = pairs * static_cast<double>(q_width) * (direction == Direction::forward ? 4 : 10);
  state.counters["TFLOP/s"] = flops / seconds * 1e-12;
  state.counters["us_token_16"] = seconds * 16e6 / static_cast<double>(tokens);
}

int register_all() {
  const std::vector<Setting> settings = {
      {"f32 own", DType::f32, MatmulMode::f32, 0},
      {"tf32 own", DType::f32, MatmulMode::tf32, 0},
      {"tf32 halves", DType::f32, MatmulMode::tf32, 0, "halves"},
      {"tf32 groups", DType::f32, MatmulMode::tf32, 0, "groups"},
      {"bf16 own", DType::bf16, MatmulMode::f32, 1},
      {"bf16 groups", DType::bf16, MatmulMode::f32, 1, "groups"},
      {"bf16 library", DType::bf16, MatmulMode::f32, 0},
      {"f16 own", DType::f16, MatmulMode::f32, 1},
      {"f16 groups", DType::f16, MatmulMode::f32, 1, "groups"},
      {"f16 library", DType::f16, MatmulMode::f32, 0},
  };
  const std::vector<Pack> packs = {equal("8 x 1024", 8, 1024), equal("16 x 512", 16, 512), chat_like(8192),
                                   equal("1 x 8192", 1, 8192)};
  for (const Pack& pack : packs)
    for (int64_t head_dim : {64, 128}) {
      if (head_dim == 128 && &pack != &packs.front()) continue;
      for (const Setting& setting : settings) {
        if (head_dim == 128 && setting.lse_gap == 0 && setting.type != DType::f32) continue;
        for (Direction direction : {Direction::forward, Direction::backward}) {
          if (setting.name.ends_with("library") && direction == Direction::backward) continue;
          AttentionShape shape{head_dim == 64 ? 32 : 16, head_dim == 64 ? 8 : 4, head_dim};
          std::string name = fmt::format("attention/{}/{}/{}/heads of {}",
                                         direction == Direction::forward ? "forward" : "backward", pack.name,
                                         setting.name, head_dim);
          benchmark::RegisterBenchmark(
              name.c_str(), [=](benchmark::State& s) { attention(s, setting, pack, shape, direction); })
              ->UseManualTime()
              ->Unit(benchmark::kMillisecond)
              ->Iterations(4);
        }
      }
    }
  return 0;
}
const int registered = register_all();

}  // namespace
