#include "slot_table.hpp"

#include <algorithm>

#include "llmft/base/error.hpp"

namespace llmft {

bool SlotTable::has_free() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const Slot& s) { return !s.in_use; });
}

int64_t SlotTable::common(std::span<const int32_t> a, std::span<const int32_t> b) {
  size_t n = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin()).first - a.begin();
}

int64_t SlotTable::best(std::span<const int32_t> prompt, AnswerWeights weights) const {
  int64_t most = 0;
  for (const Slot& s : slots_)
    if (s.weights == weights) most = std::max(most, common(prompt.first(prompt.size() - 1), s.tokens));
  return most;
}

SlotTable::Place SlotTable::take(std::span<const int32_t> prompt, AnswerWeights weights) {
  std::span<const int32_t> head = prompt.first(prompt.size() - 1);
  auto shared_with = [&](const Slot& s) { return s.weights == weights ? common(head, s.tokens) : 0; };
  size_t source = 0, free = slots_.size();
  for (size_t i = 0; i < slots_.size(); ++i)
    if (shared_with(slots_[i]) > shared_with(slots_[source])) source = i;
  int64_t shared = shared_with(slots_[source]);
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].in_use) continue;
    // what was used longest ago goes first
    if (free == slots_.size() || slots_[i].last_use < slots_[free].last_use) free = i;
  }
  check(free < slots_.size(), "no free slot");
  // continuing in place saves the copy; only worth it where nothing else would be lost: the slot's own
  // sequence goes on
  const Slot& donor = slots_[source];
  if (!donor.in_use && shared > 0 && shared == static_cast<int64_t>(donor.tokens.size())) free = source;

  Place place{static_cast<int64_t>(free), shared, std::nullopt};
  if (shared > 0 && free != source) place.from = static_cast<int64_t>(source);
  Slot& slot = slots_[free];
  slot.in_use = true;
  slot.weights = weights;
  slot.tokens.assign(prompt.begin(), prompt.begin() + shared);
  slot.last_use = ++clock_;
  if (place.from) slots_[source].last_use = ++clock_;
  return place;
}

int64_t SlotTable::soon_shared(std::span<const int32_t> prompt, AnswerWeights weights) const {
  int64_t soon = 0;
  for (const Slot& s : slots_)
    if (s.in_use && s.weights == weights)
      soon = std::max(soon, common(prompt.first(prompt.size() - 1), s.announced));
  return std::max<int64_t>(0, soon - best(prompt, weights));
}

void SlotTable::announce(int64_t slot, std::span<const int32_t> prompt) {
  slots_[static_cast<size_t>(slot)].announced.assign(prompt.begin(), prompt.end());
}

void SlotTable::cached(int64_t slot, std::span<const int32_t> tokens) {
  auto& held = slots_[static_cast<size_t>(slot)].tokens;
  held.insert(held.end(), tokens.begin(), tokens.end());
}

void SlotTable::release(int64_t slot) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  s.in_use = false;
  s.announced.clear();
  s.last_use = ++clock_;
}

}  // namespace llmft
