#include "llmft/optim/adamw.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "llmft/parallel/strategy.hpp"

namespace llmft {

AdamW::AdamW(const AdamWOptions& options, const GradientOptions& gradients, Ops& ops, ParamStore& store)
    : options_(options),
      rule_{gradients.clip, options.beta1, options.beta2, gradients.loss_scaling,
            static_cast<double>(gradients.growth_interval)},
      ops_(ops),
      store_(store) {
  Device& device = ops.device();
  int64_t chunks = 0;
  for (int b = 0; b < store.tensors().block_count(); ++b) {
    ShardRange range = store.local_range(b);
    int64_t n = range.end - range.begin;
    auto bytes = static_cast<size_t>(n) * sizeof(float);
    Moments moments{Buffer(device, 2 * bytes, MemoryPart::optimizer), {}, {}};
    moments.m = moments.buffer.view(DType::f32, 1, n);
    moments.v = moments.buffer.view(DType::f32, 1, n, bytes);
    device.zero(moments.buffer.data(), moments.buffer.bytes());
    moments_.push_back(std::move(moments));
    first_chunk_.push_back(chunks);
    int64_t numel = store.tensors().block(b).trainable_numel, chunk = norm_chunk(numel);
    chunks += (numel + chunk - 1) / chunk;
  }
  sums_ = Buffer(device, static_cast<size_t>(chunks) * sizeof(double), MemoryPart::workspace);
  state_ = Buffer(device, sizeof(UpdateState), MemoryPart::workspace);
  UpdateState start;
  start.loss_scale = gradients.loss_scaling ? gradients.initial_scale : 1;
  write_state(start);
}

Tensor AdamW::chunk_sums() const {
  return sums_.view(DType::f64, 1, static_cast<int64_t>(sums_.bytes() / sizeof(double)));
}

void AdamW::sum_squares_of(Tensor (ParamStore::*part)(int block)) {
  Tensor sums = chunk_sums();
  if (!store_.replicated()) ops_.device().zero(sums.data, sums.bytes());
  const LlamaTensors& tensors = store_.tensors();
  // the embedding's gradients, the first block's, arrive last
  for (int b = tensors.block_count() - 1; b >= 0; --b) {
    ShardRange range = store_.local_range(b);
    if (range.begin == range.end) continue;
    int64_t chunk = norm_chunk(tensors.block(b).trainable_numel);
    int64_t first = first_chunk_[static_cast<size_t>(b)] + range.begin / chunk;
    int64_t count = (range.end - range.begin + chunk - 1) / chunk;
    ops_.chunk_sum_squares((store_.*part)(b), chunk, sums.col_range(first, count));
  }
  // every chunk is non-zero on one rank at most: adding the others' zeros is exact
  store_.sum_over_shards(sums);
}

void AdamW::judge_gradients() {
  sum_squares_of(&ParamStore::local_gradient);
  ops_.advance_update(rule_, chunk_sums(), state());
}

double AdamW::parameter_norm() {
  sum_squares_of(&ParamStore::local_master);
  std::vector<double> sums(sums_.bytes() / sizeof(double));
  ops_.device().copy_to_host(sums.data(), sums_.data(), sums_.bytes());
  ops_.device().synchronize();
  return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
}

void AdamW::step(double lr) {
  AdamWParams params{};
  params.lr = static_cast<float>(lr);
  params.beta1 = static_cast<float>(options_.beta1);
  params.beta2 = static_cast<float>(options_.beta2);
  params.eps = static_cast<float>(options_.eps);
  const LlamaTensors& tensors = store_.tensors();
  for (int b = 0; b < tensors.block_count(); ++b) {
    ShardRange range = store_.local_range(b);
    Tensor p = store_.local_master(b), g = store_.local_gradient(b), copy = store_.local_compute(b);
    const Moments& moments = moments_[static_cast<size_t>(b)];
    const auto& trainables = tensors.block(b).trainables;
    // neighbours with the same decay in one go; the space between tensors is zero and stays so
    for (size_t i = 0, next = 0; i < trainables.size(); i = next) {
      while (next < trainables.size() && trainables[next].decay == trainables[i].decay) ++next;
      int64_t begin = std::max(trainables[i].offset, range.begin);
      int64_t end = std::min(trainables[next - 1].offset + trainables[next - 1].numel(), range.end);
      if (begin >= end) continue;
      auto part = [&](const Tensor& flat) { return flat.col_range(begin - range.begin, end - begin); };
      params.weight_decay = trainables[i].decay ? static_cast<float>(options_.weight_decay) : 0.0f;
      ops_.adamw(params, state(), part(p), part(moments.m), part(moments.v), part(g),
                 copy ? part(copy) : Tensor{});
    }
    store_.updated(b);
  }
  store_.publish(ParamStore::Stale::adapters_only);
}

UpdateState AdamW::read_state() const {
  UpdateState state;
  ops_.device().copy_to_host(&state, state_.data(), sizeof state);
  ops_.device().synchronize();
  return state;
}

void AdamW::write_state(const UpdateState& state) {
  ops_.device().copy_to_device(state_.data(), &state, sizeof state);
  ops_.device().synchronize();
}

}  // namespace llmft
