// Piece -> ids, so that the merging of a word is done once. Most pieces of text are words seen before: this
// table is where encoding spends its time.
//
// An entry is half a cache line: a 16-byte key and up to four ids, the count in the top byte of the first.
// Pieces of up to 15 bytes are their own key (bytes, zero padding, length in the last byte); longer ones have
// a hash and their length there, and their bytes are verified in an arena, as are answers of more than four
// ids.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "llmft/tokenizer/huge_array.hpp"
#include "llmft/tokenizer/tokenizer.hpp"

namespace llmft {

struct WordKey {
  uint64_t low = 0;
  uint64_t high = 0;  // never 0 for a piece; 0 in an empty entry

  bool operator==(const WordKey&) const = default;
  uint64_t hash() const {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(low ^ 0x9E3779B97F4A7C15u) * (high ^ 0xD1B54A32D192ED03u);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
};

class WordTable {
 public:
  static constexpr size_t kMaxShort = 15;
  static constexpr uint32_t kIdMask = 0xFFFFFF;

  struct alignas(32) Entry {
    WordKey key;
    // ids[0] >> 24: the count, 1 to 4. 0: ids[1] is where the arena holds the answer.
    uint32_t ids[4];
  };

  // Grows up to max_bytes, 2^12 entries at least.
  explicit WordTable(size_t max_bytes);
  WordTable(const WordTable& other);
  WordTable& operator=(const WordTable& other);

  // readable: bytes that may be read from data on, at least size. For size 1 to kMaxShort.
  static WordKey short_key(const char* data, size_t size, size_t readable) {
    uint64_t words[2];
    if (readable >= 16) {
      std::memcpy(words, data, 16);
      // Little endian: the first bytes are the low ones.
      if (size <= 8) {
        words[0] &= ~uint64_t{0} >> (64 - 8 * size);
        words[1] = 0;
      } else {
        words[1] &= ~uint64_t{0} >> (128 - 8 * size);
      }
    } else {
      words[0] = words[1] = 0;
      std::memcpy(words, data, size);
    }
    return {words[0], words[1] | uint64_t{size} << 56};
  }
  static WordKey long_key(std::string_view piece);

  // The pair of entries where a key with this hash belongs.
  const Entry* home(uint64_t hash) const { return entries_.get() + (hash & mask_ & ~uint64_t{1}); }
  void prefetch(uint64_t hash) const { __builtin_prefetch(home(hash)); }

  bool at_home(const WordKey& key, uint64_t hash) const {
    const Entry* entry = home(hash);
    return (entry[0].key == key) | (entry[1].key == key);
  }
  // For words that are long or have many ids, once the home is there.
  void prefetch_record(const WordKey& key, uint64_t hash) const {
    const Entry* entry = home(hash);
    entry += entry[0].key == key ? 0 : 1;
    if (entry->key == key && entry->ids[0] >> 24 == 0) __builtin_prefetch(arena_.data() + entry->ids[1]);
  }
  // As find, without the ids.
  bool contains(const WordKey& key, uint64_t hash, std::string_view piece) const {
    return search(key, hash, piece) != nullptr;
  }

  // Appends the ids and returns true, or returns false. piece: only verified for long keys.
  bool find(const WordKey& key, uint64_t hash, std::string_view piece, std::vector<TokenId>& out) const;
  // A piece that is not in the table. Does nothing when the table has reached its bound.
  void insert(const WordKey& key, uint64_t hash, std::string_view piece, std::span<const TokenId> ids);
  bool full() const { return full_; }
  // Doubles the table; at its bound it becomes full instead.
  void grow();

  size_t size() const { return used_; }
  size_t max_bytes() const { return max_bytes_; }
  size_t bytes() const { return (mask_ + 1) * sizeof(Entry) + arena_.capacity() * sizeof(uint32_t); }

 private:
  size_t empty_slot(uint64_t hash) const;
  const Entry* search(const WordKey& key, uint64_t hash, std::string_view piece) const;

  size_t max_bytes_;
  size_t mask_;
  HugeArray<Entry> entries_;
  size_t used_ = 0;
  bool full_ = false;
  // Records: count of ids, ids; then, for long keys, the piece's bytes, padded.
  std::vector<uint32_t> arena_;
};

}  // namespace llmft
