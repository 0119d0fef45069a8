#include "llmft/tokenizer/word_table.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"

namespace llmft {
namespace {

static_assert(std::endian::native == std::endian::little, "short_key masks the low bytes");

constexpr size_t kSmallest = size_t{1} << 12;
constexpr uint64_t kLongMark = uint64_t{0xFF} << 56;  // no short key has a length of 255

bool is_long(const WordKey& key) {
  return (key.high & kLongMark) == kLongMark;
}

}  // namespace

WordTable::WordTable(size_t max_bytes)
    : max_bytes_(max_bytes), mask_(kSmallest - 1), entries_(make_huge_array<Entry>(kSmallest)) {}

WordTable::WordTable(const WordTable& other) : WordTable(other.max_bytes_) {
  *this = other;
}

WordTable& WordTable::operator=(const WordTable& other) {
  if (this == &other) return *this;
  if (mask_ != other.mask_) entries_ = make_huge_array<Entry>(other.mask_ + 1);
  mask_ = other.mask_;
  max_bytes_ = other.max_bytes_;
  used_ = other.used_;
  full_ = other.full_;
  arena_ = other.arena_;
  std::copy_n(other.entries_.get(), mask_ + 1, entries_.get());
  return *this;
}

WordKey WordTable::long_key(std::string_view piece) {
  return {hash64(piece), kLongMark | (piece.size() & ~kLongMark)};
}

const WordTable::Entry* WordTable::search(const WordKey& key, uint64_t hash, std::string_view piece) const {
  for (size_t i = hash & mask_ & ~uint64_t{1}; entries_[i].key.high != 0; i = (i + 1) & mask_) {
    const Entry& entry = entries_[i];
    if (!(entry.key == key)) continue;
    if (!is_long(key)) return &entry;
    const uint32_t* record = arena_.data() + entry.ids[1];
    if (std::memcmp(record + 1 + record[0], piece.data(), piece.size()) == 0) return &entry;
  }
  return nullptr;
}

bool WordTable::find(const WordKey& key, uint64_t hash, std::string_view piece,
                     std::vector<TokenId>& out) const {
  const Entry* entry = search(key, hash, piece);
  if (entry == nullptr) return false;
  const uint32_t count = entry->ids[0] >> 24;
  if (count != 0) {
    for (uint32_t k = 0; k < count; ++k) out.push_back(entry->ids[k] & kIdMask);
  } else {
    const uint32_t* record = arena_.data() + entry->ids[1];
    out.insert(out.end(), record + 1, record + 1 + record[0]);
  }
  return true;
}

size_t WordTable::empty_slot(uint64_t hash) const {
  size_t i = hash & mask_ & ~uint64_t{1};
  while (entries_[i].key.high != 0) i = (i + 1) & mask_;
  return i;
}

void WordTable::insert(const WordKey& key, uint64_t hash, std::string_view piece,
                       std::span<const TokenId> ids) {
  if ((used_ + 1) * 8 > (mask_ + 1) * 3) grow();
  const bool in_arena = is_long(key) || ids.size() > 4;
  const size_t words = in_arena ? 1 + ids.size() + (is_long(key) ? (piece.size() + 3) / 4 : 0) : 0;
  // While a vector grows, its old and new memory are both held: it gets a quarter of the bound, used twice
  // over.
  if ((arena_.size() + words) * sizeof(uint32_t) > max_bytes_ / 4) full_ = true;
  if (full_) return;

  Entry& entry = entries_[empty_slot(hash)];
  entry.key = key;
  ++used_;
  if (!in_arena) {
    std::copy(ids.begin(), ids.end(), entry.ids);
    entry.ids[0] |= static_cast<uint32_t>(ids.size()) << 24;
    return;
  }
  entry.ids[0] = 0;
  entry.ids[1] = static_cast<uint32_t>(arena_.size());
  arena_.push_back(static_cast<uint32_t>(ids.size()));
  arena_.insert(arena_.end(), ids.begin(), ids.end());
  if (is_long(key)) {
    const size_t at = arena_.size();
    arena_.resize(at + (piece.size() + 3) / 4);
    std::memcpy(arena_.data() + at, piece.data(), piece.size());
  }
}

void WordTable::grow() {
  const size_t count = (mask_ + 1) * 2;
  if (count * sizeof(Entry) > max_bytes_ / 2) {
    full_ = true;
    return;
  }
  HugeArray<Entry> old = std::exchange(entries_, make_huge_array<Entry>(count));
  const size_t old_count = std::exchange(mask_, count - 1) + 1;
  for (size_t i = 0; i < old_count; ++i)
    if (old[i].key.high != 0) entries_[empty_slot(old[i].key.hash())] = old[i];
}

}  // namespace llmft
