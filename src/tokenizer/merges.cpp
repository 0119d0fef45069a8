// Invariant: a lane's candidates hold the rank of every pair of neighbours that may be merged, except the one
// or two that the last merge made, which are asked for (prefetched) and answered at the lane's next turn.
#include "llmft/tokenizer/merges.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <numeric>

#include "llmft/base/error.hpp"

namespace llmft {
namespace {

constexpr uint64_t kEmpty = ~uint64_t{0};
constexpr uint64_t kNoPair = ~uint64_t{0};  // more bits than a pair's key has
constexpr size_t kShort = 64;               // up to here scanning an array for the lowest rank beats a heap
constexpr size_t kLanes = 8;
constexpr size_t kScan = 16;

#define LLMFT_INLINE [[gnu::always_inline]] inline
#define LLMFT_AVX2 [[gnu::target("avx2,bmi,bmi2,lzcnt")]]
#define LLMFT_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2,lzcnt")]]

// Of values[0 .. width), by the vectors that the caller's target has.
LLMFT_INLINE int32_t lowest(const int32_t* values, size_t width) {
  using Sixteen [[gnu::vector_size(64)]] = int32_t;
  using Eight [[gnu::vector_size(32)]] = int32_t;
  using Four [[gnu::vector_size(16)]] = int32_t;
  Sixteen all;
  std::memcpy(&all, values, sizeof all);
  for (size_t first = kScan; first < width; first += kScan) {
    Sixteen more;
    std::memcpy(&more, values + first, sizeof more);
    all = all < more ? all : more;
  }
  const Eight low8 = __builtin_shufflevector(all, all, 0, 1, 2, 3, 4, 5, 6, 7);
  const Eight high8 = __builtin_shufflevector(all, all, 8, 9, 10, 11, 12, 13, 14, 15);
  const Eight eight = low8 < high8 ? low8 : high8;
  const Four low4 = __builtin_shufflevector(eight, eight, 0, 1, 2, 3);
  const Four high4 = __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  Four four = low4 < high4 ? low4 : high4;
  Four turned = __builtin_shufflevector(four, four, 2, 3, 0, 1);
  four = four < turned ? four : turned;
  turned = __builtin_shufflevector(four, four, 1, 0, 3, 2);
  four = four < turned ? four : turned;
  return four[0];
}

}  // namespace

// A piece at work. Symbols stay where their first byte was; of those merged away `alive` lacks the bit.
struct MergeTable::Lane {
  alignas(64) int32_t candidates[kShort];
  TokenId symbols[kShort];
  uint64_t alive;
  size_t width;  // of the piece, rounded up to kScan
  size_t piece;
  struct Question {
    uint64_t key;
    size_t slot;
    size_t position;
  } left, right;
};

MergeTable::MergeTable(const std::array<TokenId, 256>& byte_ids, std::span<const Merge> merges,
                       std::span<const uint32_t> ranks, SimdTier tier)
    : encode_short_(encode_short_for(tier)), byte_ids_(byte_ids), byte_pairs_(65536, kNever) {
  check(merges.size() == ranks.size(), "a merge without a rank");
  std::vector<uint64_t> entries(merges.size());
  for (size_t m = 0; m < merges.size(); ++m) {
    const auto& [left, right, merged] = merges[m];
    const uint32_t rank = ranks[m];
    check(left < kMaxIds && right < kMaxIds && rank < kMaxMerges, "a merge does not fit the pair table");
    if (rank >= merged_.size()) merged_.resize(rank + 1, kNone);
    merged_[rank] = merged;
    entries[m] = pair_key(left, right) << 24 | rank;
  }
  ranks_are_ids_ = true;
  for (size_t rank = 0; rank < merged_.size(); ++rank)
    ranks_are_ids_ = ranks_are_ids_ && (merged_[rank] == rank || merged_[rank] == kNone);
  auto key = [](uint64_t entry) { return entry >> 24; };
  std::stable_sort(entries.begin(), entries.end(), [&](uint64_t a, uint64_t b) { return key(a) < key(b); });
  entries.erase(
      std::unique(entries.begin(), entries.end(), [&](uint64_t a, uint64_t b) { return key(a) == key(b); }),
      entries.end());
  size_t capacity = std::bit_ceil(std::max<size_t>(16, entries.size() * 3 / 2));
  while (!place(entries, capacity)) capacity *= 2;
  for (size_t a = 0; a < 256; ++a)
    for (size_t b = 0; b < 256; ++b) {
      const uint32_t rank = rank_of(byte_ids_[a], byte_ids_[b]);
      if (rank != kNone) byte_pairs_[a << 8 | b] = static_cast<int32_t>(rank << 6);
    }
}

// Large groups first, as they are the hardest to place. False: some group fits nowhere.
bool MergeTable::place(std::span<const uint64_t> entries, size_t capacity) {
  const size_t groups = capacity / 4;
  mask_ = capacity - 1;
  group_shift_ = 64 - std::countr_zero(groups);
  displacements_.assign(groups, 0);
  pairs_ = make_huge_array<uint64_t>(capacity);
  std::fill_n(pairs_.get(), capacity, kEmpty);

  auto group_of = [&](uint64_t entry) { return hash(entry >> 24) >> group_shift_; };
  std::vector<uint32_t> begin(groups + 1, 0);
  for (uint64_t entry : entries) ++begin[group_of(entry) + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<uint64_t> members(entries.size());
  auto filled = begin;
  for (uint64_t entry : entries) members[filled[group_of(entry)]++] = entry;
  std::vector<uint32_t> order(groups);
  std::iota(order.begin(), order.end(), 0u);
  auto size_of = [&](uint32_t group) { return begin[group + 1] - begin[group]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return size_of(a) > size_of(b); });

  for (uint32_t group : order) {
    const std::span<const uint64_t> mine(&members[0] + begin[group], size_of(group));
    if (mine.empty()) break;
    uint64_t displacement = 0;
    for (;; ++displacement) {
      if (displacement == 256) return false;
      size_t placed = 0;
      for (; placed < mine.size(); ++placed) {
        uint64_t& entry = pairs_[slot_of(hash(mine[placed] >> 24), displacement)];
        if (entry != kEmpty) break;
        entry = mine[placed];
      }
      if (placed == mine.size()) break;
      while (placed-- > 0) pairs_[slot_of(hash(mine[placed] >> 24), displacement)] = kEmpty;
    }
    displacements_[group] = static_cast<uint8_t>(displacement);
  }
  return true;
}

uint32_t MergeTable::rank_of(TokenId left, TokenId right) const {
  const uint64_t key = pair_key(left, right);
  const uint64_t entry = pairs_[slot(key)];
  return entry >> 24 == key ? static_cast<uint32_t>(entry & 0xFFFFFF) : kNone;
}

void MergeTable::encode(std::span<const std::string_view> pieces, std::vector<TokenId>& ids,
                        std::span<Range> ranges, Scratch& scratch) const {
  encode_short_(*this, pieces, ids, ranges);
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].size() <= kShort) continue;
    const size_t first = ids.size();
    encode_long(pieces[i], ids, scratch);
    ranges[i] = {first, ids.size() - first};
  }
}

void MergeTable::encode(std::string_view piece, std::vector<TokenId>& ids, Scratch& scratch) const {
  Range range;
  encode({&piece, 1}, ids, {&range, 1}, scratch);
}

LLMFT_INLINE size_t MergeTable::next_short(std::span<const std::string_view> pieces, size_t from) {
  while (from < pieces.size() && pieces[from].size() > kShort) ++from;
  return from;
}

LLMFT_INLINE void MergeTable::start(Lane& lane, std::string_view piece, size_t index) const {
  auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<unsigned char>(piece[i])); };
  const size_t n = piece.size();
  lane.piece = index;
  lane.width = (n + kScan - 1) / kScan * kScan;
  lane.alive = n == 0 ? 0 : ~uint64_t{0} >> (64 - n);
  lane.left = lane.right = {kNoPair, 0, kShort - 1};
  lane.candidates[kShort - 1] = kNever;
  for (size_t i = n; i < lane.width; ++i) lane.candidates[i] = kNever;
  for (size_t i = 0; i < n; ++i) lane.symbols[i] = byte_ids_[byte(i)];
  for (size_t i = 0; i + 1 < n; ++i)
    lane.candidates[i] = byte_pairs_[byte(i) << 8 | byte(i + 1)] | static_cast<int32_t>(i);
  if (n > 0) lane.candidates[n - 1] = kNever;
}

// One merge. False: there was none left.
LLMFT_INLINE bool MergeTable::step(Lane& lane) const {
  // The left one first: where there is none, its position is the right one's, whose answer counts.
  for (const Lane::Question* question : {&lane.left, &lane.right}) {
    const uint64_t entry = pairs_[question->slot];
    const auto candidate = static_cast<int32_t>((entry & 0xFFFFFF) << 6 | question->position);
    lane.candidates[question->position] = entry >> 24 == question->key ? candidate : kNever;
  }
  const int32_t best = lowest(lane.candidates, lane.width);
  if (best == kNever) return false;

  const auto at = static_cast<size_t>(best & 63);
  const uint64_t after = lane.alive & ~uint64_t{1} << at;
  const auto gone = static_cast<size_t>(std::countr_zero(after));
  const auto rank = static_cast<uint32_t>(best >> 6);
  const TokenId merged = ranks_are_ids_ ? rank : merged_[rank];
  lane.symbols[at] = merged;
  lane.candidates[gone] = kNever;
  lane.alive &= ~(uint64_t{1} << gone);
  const uint64_t right = after & (after - 1);
  const uint64_t left = lane.alive & ((uint64_t{1} << at) - 1);
  const auto right_at = static_cast<size_t>(std::countr_zero(right)) & 63;
  const auto left_at = static_cast<size_t>(63 - std::countl_zero(left | 1));
  const uint64_t right_key = pair_key(merged, lane.symbols[right_at]);
  const uint64_t left_key = pair_key(lane.symbols[left_at], merged);
  lane.right = {right != 0 ? right_key : kNoPair, slot(right_key), at};
  lane.left = {left != 0 ? left_key : kNoPair, slot(left_key), left != 0 ? left_at : at};
  __builtin_prefetch(&pairs_[lane.right.slot]);
  __builtin_prefetch(&pairs_[lane.left.slot]);
  return true;
}

LLMFT_INLINE void MergeTable::run_lanes(const MergeTable& table, std::span<const std::string_view> pieces,
                                        std::vector<TokenId>& ids, std::span<Range> ranges) {
  Lane lanes[kLanes];
  size_t next = next_short(pieces, 0);
  size_t busy = 0;
  for (; busy < kLanes && next < pieces.size(); next = next_short(pieces, next + 1))
    table.start(lanes[busy++], pieces[next], next);
  while (busy > 0)
    for (size_t k = 0; k < busy;) {
      Lane& lane = lanes[k];
      if (table.step(lane)) {
        ++k;
        continue;
      }
      const size_t first = ids.size();
      ranges[lane.piece] = {first, static_cast<size_t>(std::popcount(lane.alive))};
      ids.resize(first + ranges[lane.piece].count);
      TokenId* out = &ids[0] + first;
      for (uint64_t rest = lane.alive; rest != 0; rest &= rest - 1)
        *out++ = lane.symbols[std::countr_zero(rest)];
      if (next < pieces.size()) {
        table.start(lane, pieces[next], next);
        next = next_short(pieces, next + 1);
      } else {
        lane = lanes[--busy];
      }
    }
}

void MergeTable::encode_short_plain(const MergeTable& table, std::span<const std::string_view> pieces,
                                    std::vector<TokenId>& ids, std::span<Range> ranges) {
  run_lanes(table, pieces, ids, ranges);
}

#if defined(__x86_64__)
LLMFT_AVX2 void MergeTable::encode_short_avx2(const MergeTable& table,
                                              std::span<const std::string_view> pieces,
                                              std::vector<TokenId>& ids, std::span<Range> ranges) {
  run_lanes(table, pieces, ids, ranges);
}

LLMFT_AVX512 void MergeTable::encode_short_avx512(const MergeTable& table,
                                                  std::span<const std::string_view> pieces,
                                                  std::vector<TokenId>& ids, std::span<Range> ranges) {
  run_lanes(table, pieces, ids, ranges);
}
#endif

MergeTable::EncodeShort MergeTable::encode_short_for(SimdTier tier) {
#if defined(__x86_64__)
  if (tier == SimdTier::avx512) return encode_short_avx512;
  if (tier == SimdTier::avx2) return encode_short_avx2;
#endif
  (void)tier;
  return encode_short_plain;
}

// Symbols in a doubly linked list, candidate pairs in a heap ordered by rank and then position. An entry is
// stale, and dropped when it comes up, if the pair at its position no longer has its rank.
void MergeTable::encode_long(std::string_view piece, std::vector<TokenId>& ids, Scratch& scratch) const {
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
    const int32_t candidate = i + 1 < n ? byte_pairs_[byte(i) << 8 | byte(i + 1)] : kNever;
    ranks[i] = candidate == kNever ? kNone : static_cast<uint32_t>(candidate) >> 6;
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
  for (size_t i = 0; i < n; i = next[i]) ids.push_back(symbols[i]);
}

}  // namespace llmft
