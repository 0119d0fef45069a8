#include "gather_slots.hpp"

namespace llmft {

GatherSlots::Slot* GatherSlots::free_slot(bool ahead) {
  Slot* oldest = nullptr;
  bool may_grow = slots_.size() < capacity_;
  auto better = [](const Slot& a, const Slot& b) {
    if ((a.block < 0) != (b.block < 0)) return a.block < 0;
    if (a.expected != b.expected) return !a.expected;
    return a.used < b.used;
  };
  for (auto& slot : slots_)
    if (slot->leases == 0 && (oldest == nullptr || better(*slot, *oldest))) oldest = slot.get();
  bool usable = oldest != nullptr && (oldest->block < 0 || !oldest->expected || !ahead);
  bool empty = oldest != nullptr && oldest->block < 0;
  if (!empty && (may_grow || (!usable && !ahead))) {
    auto slot = std::make_unique<Slot>();
    slot->buffer = Buffer(device_, bytes_, MemoryPart::gathered);
    slots_.push_back(std::move(slot));
    return slots_.back().get();
  }
  if (!usable) return nullptr;
  oldest->block = -1;
  oldest->expected = false;
  return oldest;
}

}  // namespace llmft
