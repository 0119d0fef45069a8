#include "batches.hpp"

namespace llmft {

Batches::Batches(const Loader& loader, int64_t batch_packs, int rank, int ranks)
    : loader_(loader), batch_packs_(batch_packs), rank_(rank), ranks_(ranks) {}

std::vector<PackPosition> Batches::take(PackPosition& from) const {
  std::vector<PackPosition> step;
  while (static_cast<int64_t>(step.size()) < batch_packs_) {
    if (from.index >= loader_.packs_in_epoch(from.epoch)) from = {from.epoch + 1, 0};
    step.push_back(from);
    ++from.index;
  }
  return step;
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
