#include "llmft/optim/adamw.hpp"

#include <algorithm>
#include <cmath>

#include "llmft/parallel/strategy.hpp"

namespace llmft {

AdamW::AdamW(const AdamWOptions& options, Ops& ops, ParamStore& store, Comm& comm)
    : options_(options), ops_(ops), store_(store), comm_(comm) {
  for (int b = 0; b < store.tensors().block_count(); ++b) {
    ShardRange range = store.local_range(b);
    int64_t n = range.end - range.begin;
    auto bytes = static_cast<size_t>(n) * sizeof(float);
    Moments moments{Buffer(ops.device(), 2 * bytes, MemoryPart::optimizer), {}, {}};
    moments.m = moments.buffer.view(DType::f32, 1, n);
    moments.v = moments.buffer.view(DType::f32, 1, n, bytes);
    ops.device().zero(moments.buffer.data(), moments.buffer.bytes());
    moments_.push_back(std::move(moments));
  }
}

double AdamW::gradient_norm() {
  std::vector<double> sums;
  std::vector<size_t> starts;
  const LlamaTensors& tensors = store_.tensors();
  for (const Block& block : tensors.blocks()) {
    starts.push_back(sums.size());
    int64_t chunk = norm_chunk(block.trainable_numel);
    sums.resize(sums.size() + static_cast<size_t>((block.trainable_numel + chunk - 1) / chunk));
  }
  for (int b = 0; b < tensors.block_count(); ++b) {
    ShardRange range = store_.local_range(b);
    if (range.begin == range.end) continue;
    int64_t chunk = norm_chunk(tensors.block(b).trainable_numel);
    auto first = starts[static_cast<size_t>(b)] + static_cast<size_t>(range.begin / chunk);
    auto count = static_cast<size_t>((range.end - range.begin + chunk - 1) / chunk);
    ops_.chunk_sum_squares(store_.local_gradient(b), chunk, std::span(sums).subspan(first, count));
  }
  // every chunk is non-zero on one rank at most: adding the others' zeros is exact
  if (!store_.replicated()) comm_.all_reduce_host(sums);
  double total = 0;
  for (double s : sums) total += s;
  return std::sqrt(total);
}

void AdamW::step(double lr, double grad_scale) {
  ++updates_;
  auto t = static_cast<double>(updates_);
  AdamWParams params{};
  params.lr = static_cast<float>(lr);
  params.beta1 = static_cast<float>(options_.beta1);
  params.beta2 = static_cast<float>(options_.beta2);
  params.eps = static_cast<float>(options_.eps);
  params.correction1 = static_cast<float>(1 - std::pow(options_.beta1, t));
  params.correction2 = static_cast<float>(1 - std::pow(options_.beta2, t));
  params.grad_scale = static_cast<float>(grad_scale);
  const LlamaTensors& tensors = store_.tensors();
  for (int b = 0; b < tensors.block_count(); ++b) {
    ShardRange range = store_.local_range(b);
    Tensor p = store_.local_master(b), g = store_.local_gradient(b);
    const Moments& moments = moments_[static_cast<size_t>(b)];
    for (const Trainable& trainable : tensors.block(b).trainables) {
      int64_t begin = std::max(trainable.offset, range.begin);
      int64_t end = std::min(trainable.offset + trainable.numel(), range.end);
      if (begin >= end) continue;
      auto part = [&](const Tensor& flat) { return flat.col_range(begin - range.begin, end - begin); };
      params.weight_decay = trainable.decay ? static_cast<float>(options_.weight_decay) : 0.0f;
      ops_.adamw(params, part(p), part(moments.m), part(moments.v), part(g));
    }
  }
  store_.publish();
}

double clip_factor(double norm, double max_norm) {
  if (max_norm <= 0) return 1;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace llmft
