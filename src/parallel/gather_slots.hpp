// Places for gathered blocks: a few buffers that hold whole blocks for as long as they are not needed for
// others. So a block that was used a moment ago, at the turn from forward to backward or from one step to the
// next, need not be gathered again.
#pragma once

#include <vector>

#include "llmft/comm/comm.hpp"
#include "llmft/device/device.hpp"

namespace llmft {

class GatherSlots {
 public:
  struct Slot {
    Buffer buffer;
    int block = -1;
    int leases = 0;
    bool expected = false;  // gathered ahead, not used yet
    uint64_t used = 0;
    Started gathering;
    bool copied = false;  // gathering is one of PeerMemory
  };

  // bytes: of a block; capacity: slots made before one is used again.
  GatherSlots(Device& device, size_t bytes, size_t capacity)
      : device_(device), bytes_(bytes), capacity_(capacity) {}

  Slot* find(int block) {
    for (auto& slot : slots_)
      if (slot->block == block) return slot.get();
    return nullptr;
  }
  // A slot to gather a block into, its old content gone. ahead: null rather than a slot that is expected to
  // be used or one more than planned.
  Slot* free_slot(bool ahead);
  void touch(Slot& slot) { slot.used = ++clock_; }
  void forget(int block) {
    if (Slot* slot = find(block)) slot->block = -1;
  }
  void forget_all() {
    for (auto& slot : slots_) slot->block = -1;
  }

 private:
  Device& device_;
  size_t bytes_;
  size_t capacity_;
  uint64_t clock_ = 0;
  std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace llmft
