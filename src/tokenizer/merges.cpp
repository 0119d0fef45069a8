#include "llmft/tokenizer/merges.hpp"

#include <algorithm>
#include <bit>
#include <functional>

#include "llmft/base/error.hpp"

namespace llmft {
namespace {
constexpr uint64_t kEmpty = ~uint64_t{0};
constexpr size_t kShort = 64;  // up to here scanning an array for the lowest rank beats a heap
}  // namespace

MergeTable::MergeTable(const std::array<TokenId, 256>& byte_ids, std::span<const Merge> merges,
                       std::span<const uint32_t> ranks)
    : byte_ids_(byte_ids), byte_ranks_(65536, kNone) {
  check(merges.size() == ranks.size(), "a merge without a rank");
  const size_t capacity = std::bit_ceil(std::max<size_t>(16, merges.size() + merges.size() / 3));
  shift_ = 64 - std::countr_zero(capacity);
  pairs_.assign(capacity, kEmpty);
  filter_.assign(capacity * kFilterBits / 64, 0);
  for (size_t m = 0; m < merges.size(); ++m) {
    const auto& [left, right, merged] = merges[m];
    const uint32_t rank = ranks[m];
    check(left < kMaxIds && right < kMaxIds && rank < kMaxMerges, "a merge does not fit the pair table");
    if (rank >= merged_.size()) merged_.resize(rank + 1, kNone);
    merged_[rank] = merged;
    const uint64_t key = pair_key(left, right);
    const size_t bit = filter_bit(key);
    filter_[bit >> 6] |= uint64_t{1} << (bit & 63);
    size_t i = slot(key);
    while (pairs_[i] != kEmpty && pairs_[i] >> 24 != key) i = (i + 1) & (capacity - 1);
    if (pairs_[i] == kEmpty) pairs_[i] = key << 24 | rank;
  }
  for (size_t a = 0; a < 256; ++a)
    for (size_t b = 0; b < 256; ++b) byte_ranks_[a << 8 | b] = rank_of(byte_ids_[a], byte_ids_[b]);
}

uint32_t MergeTable::rank_of(TokenId left, TokenId right) const {
  const uint64_t key = pair_key(left, right);
  const size_t bit = filter_bit(key);
  if ((filter_[bit >> 6] >> (bit & 63) & 1) == 0) return kNone;
  for (size_t i = slot(key);; i = (i + 1) & (pairs_.size() - 1)) {
    const uint64_t entry = pairs_[i];
    if (entry >> 24 == key) return static_cast<uint32_t>(entry & 0xFFFFFF);
    if (entry == kEmpty) return kNone;
  }
}

void MergeTable::encode(std::string_view piece, std::vector<TokenId>& out, Scratch& scratch) const {
  if (piece.size() <= kShort)
    encode_short(piece, out);
  else
    encode_long(piece, out, scratch);
}

void MergeTable::encode_short(std::string_view piece, std::vector<TokenId>& out) const {
  TokenId symbols[kShort];
  uint32_t ranks[kShort];  // ranks[i]: of the pair (i, i + 1)
  size_t n = piece.size();
  auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(piece[i])); };
  for (size_t i = 0; i < n; ++i) symbols[i] = byte_ids_[byte(i)];
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = byte_ranks_[byte(i) << 8 | byte(i + 1)];
  while (n > 1) {
    uint32_t lowest = kNone;
    size_t at = 0;
    for (size_t i = 0; i + 1 < n; ++i) {
      const bool lower = ranks[i] < lowest;
      lowest = lower ? ranks[i] : lowest;
      at = lower ? i : at;
    }
    if (lowest == kNone) break;
    symbols[at] = merged_[lowest];
    for (size_t i = at + 1; i + 1 < n; ++i) symbols[i] = symbols[i + 1];
    for (size_t i = at + 1; i + 2 < n; ++i) ranks[i] = ranks[i + 1];
    --n;
    if (at + 1 < n) ranks[at] = rank_of(symbols[at], symbols[at + 1]);
    if (at > 0) ranks[at - 1] = rank_of(symbols[at - 1], symbols[at]);
  }
  out.insert(out.end(), symbols, symbols + n);
}

// Symbols in a doubly linked list, candidate pairs in a heap ordered by rank and then position. An entry is
// stale, and dropped when it comes up, if the pair at its position no longer has its rank.
void MergeTable::encode_long(std::string_view piece, std::vector<TokenId>& out, Scratch& scratch) const {
  const size_t n = piece.size();
  if (n >= kNone) user_error("tokenizer: a single word of {} bytes is too long to encode; split the text", n);
  auto& symbols = scratch.symbols;
  auto& ranks = scratch.ranks;
  auto& next = scratch.next;
  auto& previous = scratch.previous;
  auto& heap = scratch.heap;
  symbols.resize(n);
  ranks.resize(n);
  next.resize(n);
  previous.resize(n);
  heap.clear();
  auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(piece[i])); };
  auto entry = [](uint32_t rank, size_t at) { return uint64_t{rank} << 32 | at; };
  for (size_t i = 0; i < n; ++i) {
    symbols[i] = byte_ids_[byte(i)];
    ranks[i] = i + 1 < n ? byte_ranks_[byte(i) << 8 | byte(i + 1)] : kNone;
    next[i] = static_cast<uint32_t>(i + 1);
    previous[i] = static_cast<uint32_t>(i) - 1;
    if (ranks[i] != kNone) heap.push_back(entry(ranks[i], i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  auto update = [&](uint32_t at) {
    ranks[at] = next[at] < n ? rank_of(symbols[at], symbols[next[at]]) : kNone;
    if (ranks[at] == kNone) return;
    heap.push_back(entry(ranks[at], at));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto at = static_cast<uint32_t>(top);
    const auto rank = static_cast<uint32_t>(top >> 32);
    if (ranks[at] != rank) continue;
    const uint32_t gone = next[at];
    symbols[at] = merged_[rank];
    ranks[gone] = kNone;
    next[at] = next[gone];
    if (next[at] < n) previous[next[at]] = at;
    update(at);
    if (at > 0) update(previous[at]);
  }
  for (size_t i = 0; i < n; i = next[i]) out.push_back(symbols[i]);
}

}  // namespace llmft
