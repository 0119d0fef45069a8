#include "batches.hpp"

#include <algorithm>
#include <numeric>

#include "llmft/model/llama.hpp"

namespace llmft {

PackCost pack_cost(const LlamaTensors& tensors) {
  constexpr double kAttentionSlowness = 2.5;
  return {training_flops(tensors, 1, 0, 0), kAttentionSlowness * training_flops(tensors, 0, 0, 1),
          training_flops(tensors, 0, 1, 0)};
}

std::vector<size_t> share_out(std::span<const double> costs, int ranks, PackOrder order) {
  std::vector<size_t> number(costs.size());
  std::iota(number.begin(), number.end(), size_t{0});
  if (order == PackOrder::by_cost) return number;
  auto n = static_cast<size_t>(ranks);
  std::vector<double> load(n);
  std::vector<size_t> least(n);
  std::iota(least.begin(), least.end(), size_t{0});
  for (size_t first = 0; first < costs.size(); first += n) {
    std::stable_sort(least.begin(), least.end(), [&](size_t a, size_t b) { return load[a] < load[b]; });
    for (size_t k = 0; k < n; ++k) {
      number[first + least[k]] = first + k;
      load[least[k]] += costs[first + k];
    }
  }
  return number;
}

Batches::Batches(const Loader& loader, int64_t batch_packs, const PackCost& cost, PackOrder order, int rank,
                 int ranks)
    : loader_(loader), batch_packs_(batch_packs), cost_(cost), order_(order), rank_(rank), ranks_(ranks) {}

std::vector<PackPosition> Batches::take(PackPosition& from) const {
  struct Priced {
    PackPosition position;
    double cost;
  };
  std::vector<Priced> packs;
  while (static_cast<int64_t>(packs.size()) < batch_packs_) {
    if (from.index >= loader_.packs_in_epoch(from.epoch)) from = {from.epoch + 1, 0};
    packs.push_back({from, cost_of(from)});
    ++from.index;
  }
  std::stable_sort(packs.begin(), packs.end(),
                   [](const Priced& a, const Priced& b) { return a.cost > b.cost; });
  std::vector<double> costs;
  for (const Priced& pack : packs) costs.push_back(pack.cost);
  std::vector<PackPosition> step;
  for (size_t i : share_out(costs, ranks_, order_)) step.push_back(packs[i].position);
  return step;
}

double Batches::imbalance(const std::vector<PackPosition>& step) const {
  std::vector<double> load(static_cast<size_t>(ranks_));
  for (size_t i = 0; i < step.size(); ++i) load[i % load.size()] += cost_of(step[i]);
  double total = std::accumulate(load.begin(), load.end(), 0.0);
  return *std::max_element(load.begin(), load.end()) * ranks_ / total - 1;
}

int64_t Batches::loss_tokens(const std::vector<PackPosition>& step) const {
  uint64_t total = 0;
  for (const PackPosition& p : step) total += loader_.loss_tokens(p.epoch, p.index);
  return static_cast<int64_t>(total);
}

Pack Batches::pack(const std::vector<PackPosition>& step, int64_t micro_step, const PackPosition& next_step) {
  PackPosition want = mine(step, micro_step);
  Pack pack;
  bool ready = ahead_.valid() && ahead_position_.epoch == want.epoch && ahead_position_.index == want.index;
  if (ahead_.valid() && !ready) ahead_.wait();
  pack = ready ? ahead_.get() : loader_.pack(want.epoch, want.index);

  if (micro_step + 1 < micro_steps()) {
    ahead_position_ = mine(step, micro_step + 1);
  } else {
    PackPosition from = next_step;
    ahead_position_ = mine(take(from), 0);
  }
  ahead_ =
      std::async(std::launch::async, [this, p = ahead_position_] { return loader_.pack(p.epoch, p.index); });
  return pack;
}

}  // namespace llmft
