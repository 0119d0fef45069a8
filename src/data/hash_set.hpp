// A set of 64-bit hashes of few instructions an insertion: std::unordered_set spends a division, a chain of
// nodes and an allocation on each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace llmft {

class HashSet {
 public:
  // False when the hash was there. Hashes are taken to be evenly spread.
  bool insert(uint64_t hash) {
    if (hash == 0) return !std::exchange(zero_, true);  // 0 is an empty slot
    if ((used_ + 1) * 2 > slots_.size()) grow();
    uint64_t& slot = slots_[find(hash)];
    if (slot == hash) return false;
    slot = hash;
    ++used_;
    return true;
  }
  // Keeps its memory.
  void clear() {
    std::fill(slots_.begin(), slots_.end(), 0);
    used_ = 0;
    zero_ = false;
  }

 private:
  size_t find(uint64_t hash) const {
    size_t mask = slots_.size() - 1;
    size_t at = hash & mask;
    while (slots_[at] != 0 && slots_[at] != hash) at = (at + 1) & mask;
    return at;
  }
  void grow() {
    std::vector<uint64_t> old = std::exchange(slots_, std::vector<uint64_t>(slots_.size() * 2));
    for (uint64_t hash : old)
      if (hash != 0) slots_[find(hash)] = hash;
  }

  std::vector<uint64_t> slots_ = std::vector<uint64_t>(1024);
  size_t used_ = 0;
  bool zero_ = false;
};

}  // namespace llmft
