#include "rank_state.hpp"

#include <algorithm>
#include <vector>

#include "llmft/base/rng.hpp"
#include "llmft/device/trace_range.hpp"
#include "llmft/model/model_folder.hpp"

namespace llmft {

AdapterSpec adapter_of(const TrainOptions& o) {
  if (!o.adapter_init.empty()) return read_adapter_config(o.adapter_init);
  if (o.adapter_rank == 0) return {};
  return {o.adapter_rank, o.adapter_alpha, o.adapter_rslora, normalise_targets(o.adapter_targets)};
}

Reduction reduction_of(const TrainOptions& o) {
  return o.deterministic ? Reduction::tree : Reduction::fast;
}

KernelChoice kernel_choice_of(const TrainOptions& o) {
  return o.deterministic ? KernelChoice::fixed : KernelChoice::measured;
}

int64_t extension_multiple(DeviceKind kind) {
  return kind == DeviceKind::cuda ? 64 : 1;
}

RankState make_rank_state(const TrainOptions& o, const LlamaTensors& tensors, const Recipe& recipe, Ops& ops,
                          Comm& comm, int group) {
  RankState s;
  s.store = make_param_store(o.strategy, {tensors, recipe, ops, comm, reduction_of(o), o.fsdp_mode, group});
  s.optimizer = std::make_unique<AdamW>(
      o.adamw, GradientOptions{o.clip, recipe.loss_scaling, o.loss_scale, o.loss_scale_interval}, ops,
      *s.store);
  s.llama = std::make_unique<Llama>(tensors, recipe, ops, *s.store, LlamaLimits{o.pack_tokens});
  auto micro_steps = static_cast<size_t>(o.batch_packs / comm.size());
  s.outcome = Buffer(ops.device(), (micro_steps + kUpdateFields) * sizeof(double), MemoryPart::workspace);
  return s;
}

void rehearse(RankState& s, const TrainOptions& o, Device& device, int ranks) {
  TraceRange range("rehearsal");
  constexpr int32_t kDocument = 1024;  // tokens: memory does not depend on it, time does
  auto tokens = static_cast<int32_t>(o.pack_tokens);
  std::vector<int32_t> ids, positions, rows, starts;
  CounterRng rng(0, 0);
  auto vocabulary = static_cast<uint64_t>(s.store->tensors().config().vocab_size);
  for (int32_t i = 0; i < tokens; ++i) {
    // different ones: products of equal rows take less power, and algorithms are chosen here
    ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(i), vocabulary)));
    positions.push_back(i % kDocument);
    rows.push_back(i);
    if (i % kDocument == 0) starts.push_back(i);
  }
  starts.push_back(tokens);
  HostBatch batch{ids, positions, starts, rows, ids};

  device.set_phase(DevicePhase::rehearsing);
  UpdateState before = s.optimizer->read_state();
  Tensor loss = s.outcome.view(DType::f64, 1, 1);
  int64_t micro_steps = o.batch_packs / ranks;
  s.store->zero_gradients(micro_steps);
  // The first product of a step sets gradients, the next ones add to them.
  for (int64_t i = 0; i < std::min<int64_t>(micro_steps, 2); ++i)
    s.llama->forward_backward(batch, 0, s.optimizer->loss_scale(), loss);
  // A sum in the shape of a tree keeps more buffers the more leaves it has.
  if (o.deterministic)
    for (int64_t i = 2; i < micro_steps; ++i)
      for (int block = s.store->tensors().block_count() - 1; block >= 0; --block) {
        s.store->open_gradients(block);
        s.store->gradients_ready(block);
      }
  s.store->finish_gradients();
  s.optimizer->judge_gradients();
  s.llama->loss(batch);
  s.store->publish(ParamStore::Stale::adapters_only);
  s.optimizer->write_state(before);
  device.synchronize();
  device.set_phase(DevicePhase::sealed);
}

}  // namespace llmft
