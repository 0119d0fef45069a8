// What the shards of a run are, and what a shard holds.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "llmft/data/manifest.hpp"
#include "llmft/data/shard_file.hpp"

namespace llmft {

// Where shard i of a split lies.
struct SplitFolder {
  std::filesystem::path folder;
  std::string split;
  std::filesystem::path shard(uint64_t index, uint64_t count) const {
    return folder / shard_name(index, count);
  }
};

struct ShardJob {
  std::vector<SplitFolder> splits;  // train, and validation where there is one
  std::string tokenizer_hash;
  std::string settings;
  std::string fingerprint;
  uint64_t rows_per_shard = 1;
  uint64_t rows = 0;

  uint64_t shards() const { return (rows + rows_per_shard - 1) / rows_per_shard; }
  uint64_t first_row(uint64_t shard) const { return shard * rows_per_shard; }
  uint64_t end_row(uint64_t shard) const { return std::min(rows, (shard + 1) * rows_per_shard); }
  ShardOrigin origin(uint64_t shard, size_t split) const;
  // Of every shard of a split, in order.
  std::vector<std::filesystem::path> paths(size_t split) const;
};

// Tokens of a sample -> samples of that length.
using Lengths = std::map<uint64_t, uint64_t>;

// What the manifest needs to know of a shard.
struct ShardSummary {
  Manifest::Shard shard;
  ShardCounts counts;
  Lengths lengths;

  void add(uint64_t length, uint32_t loss_start);
  // Name, bytes and hash.
  void describe_file(const std::filesystem::path& path);
};

// The same from a shard that is there. Verifies every checksum on the way.
ShardSummary summarise(const std::filesystem::path& path);

// Sums over shards of a split; bounded by the number of different lengths.
struct SplitTotals {
  uint64_t samples = 0;
  uint64_t tokens = 0;
  uint64_t loss_tokens = 0;
  ShardCounts counts;
  Lengths lengths;

  void add(const ShardSummary& summary);
  void add(const SplitTotals& other);
  // other is part of this.
  void subtract(const SplitTotals& other);
};

// Shards by number, and their sums, by split.
struct MadeShards {
  std::map<uint64_t, std::vector<Manifest::Shard>> shards;
  std::array<SplitTotals, 2> totals;

  void add(uint64_t shard, const std::vector<ShardSummary>& splits);
};

}  // namespace llmft
