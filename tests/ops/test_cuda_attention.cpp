// The attention cases of the table on the GPU: the own kernels (f32) and cuDNN's (16-bit, where the head
// fits).
#include <cmath>
#include <random>
#include <string_view>
#include <vector>

#include "llmft/ops/backend.hpp"
#include "ops/op_cases.hpp"

namespace {

using namespace llmft;
using namespace llmft::test;

std::vector<OpCase> attention_cases() {
  std::vector<OpCase> result;
  for (const OpCase& op_case : op_cases())
    if (std::string_view(op_case.name).starts_with("attention")) result.push_back(op_case);
  return result;
}

void run_attention(DType type, AttentionOrder order, double roundings) {
  auto device = make_cuda_device(0);
  auto ops = make_cuda_ops(*device, MatmulMode::f32, order);
  OpTest odd(*ops, type);
  odd.attention_roundings = roundings;
  run_cases(odd, attention_cases());
  OpTest aligned(*ops, type);
  aligned.attention_roundings = roundings;
  aligned.gaps = {0, 64, 8};
  run_cases(aligned, attention_cases());
}

struct Gradients {
  std::vector<float> dq, dk, dv;
};

// bf16 attention forward and backward of one random pack in [T, N] buffers, as training lays them out.
Gradients train_like(AttentionOrder order, const std::vector<int32_t>& cu_seqlens, int64_t out_gap,
                     int64_t dout_gap) {
  constexpr AttentionShape kShape{32, 8, 64};
  constexpr int64_t kQ = 2048, kKv = 512, kN = kQ + 2 * kKv;
  int64_t tokens = cu_seqlens.back();
  auto device = make_cuda_device(0);
  auto ops = make_cuda_ops(*device, MatmulMode::f32, order);
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
  ops->attention_backward(kShape, documents, q(x), k(x), v(x), o, l,
                          dout.view(DType::bf16, tokens, kQ + dout_gap).col_range(0, kQ), q(dx), k(dx),
                          v(dx));
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

TEST_CASE("CUDA attention: the library's gradients equal the own kernels' at training size") {
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
      Gradients library = train_like(AttentionOrder::fast, pack, out_gap, dout_gap);
      Gradients own = train_like(AttentionOrder::deterministic, pack, out_gap, dout_gap);
      CHECK(difference(library.dq, own.dq) < 1e-2);
      CHECK(difference(library.dk, own.dk) < 1e-2);
      CHECK(difference(library.dv, own.dv) < 1e-2);
    }
  }
}

TEST_CASE("CUDA attention computes its formulas") {
  if (cuda_device_count() == 0) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  // cuDNN rounds probabilities and their gradients to 16 bits before the second products
  for (AttentionOrder order : {AttentionOrder::fast, AttentionOrder::deterministic}) {
    run_attention(DType::f32, order, 1);
    run_attention(DType::bf16, order, 3);
    run_attention(DType::f16, order, 3);
  }
}
