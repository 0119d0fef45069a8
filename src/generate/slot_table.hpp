// Which sequence's keys and values each slot of the cache holds. A slot keeps them after its request has
// ended, so that a later prompt with the same beginning (a system prompt, a conversation's earlier turns)
// takes them over instead of computing them again.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "llmft/generate/engine.hpp"

namespace llmft {

class SlotTable {
 public:
  explicit SlotTable(int64_t slots) : slots_(static_cast<size_t>(slots)) {}

  struct Place {
    int64_t slot;
    int64_t shared = 0;           // tokens at the start that need not be computed
    std::optional<int64_t> from;  // slot to copy them from; nothing: they are there
  };
  bool has_free() const;
  // Takes a free slot (there must be one) for a prompt; its last token is never among the shared ones, since
  // its output is what comes next.
  Place take(std::span<const int32_t> prompt, AnswerWeights weights);
  // Tokens at the start of prompt that sequences being computed now will hold, beyond what take() would
  // share.
  int64_t soon_shared(std::span<const int32_t> prompt, AnswerWeights weights) const;
  // The slot's sequence has these keys and values now: append only.
  void cached(int64_t slot, std::span<const int32_t> tokens);
  void announce(int64_t slot, std::span<const int32_t> prompt);
  void release(int64_t slot);

 private:
  struct Slot {
    bool in_use = false;
    AnswerWeights weights = AnswerWeights::base;
    std::vector<int32_t> tokens;     // cached
    std::vector<int32_t> announced;  // prompt of the running sequence
    uint64_t last_use = 0;
  };
  static int64_t common(std::span<const int32_t> a, std::span<const int32_t> b);
  int64_t best(std::span<const int32_t> prompt, AnswerWeights weights) const;

  std::vector<Slot> slots_;
  uint64_t clock_ = 0;
};

}  // namespace llmft
