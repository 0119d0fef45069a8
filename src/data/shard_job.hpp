// What the shards of a run are, and what a shard holds.
#pragma once

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
  SplitFolder train;
  std::optional<SplitFolder> valid;
  std::string tokenizer_hash;
  std::string settings;
  std::string fingerprint;
  uint64_t rows_per_shard = 1;
  uint64_t rows = 0;

  uint64_t shards() const { return (rows + rows_per_shard - 1) / rows_per_shard; }
  uint64_t first_row(uint64_t shard) const { return shard * rows_per_shard; }
  uint64_t end_row(uint64_t shard) const { return std::min(rows, (shard + 1) * rows_per_shard); }
  ShardOrigin origin(uint64_t shard, const std::string& split) const;
};

enum class SampleHashes { no, yes };

// What the manifest needs to know of a shard.
struct ShardSummary {
  Manifest::Shard shard;
  ShardCounts counts;
  std::map<uint64_t, uint64_t> lengths;  // tokens of a sample -> samples
  std::vector<uint64_t> hashes;          // of each sample's tokens, where asked for

  void add(std::span<const uint32_t> tokens, uint32_t loss_start, SampleHashes with_hashes);
  // Name, bytes and hash.
  void describe_file(const std::filesystem::path& path);
};

struct SplitSummaries {
  ShardSummary train;
  ShardSummary valid;
};

// The same from a shard that is there. Verifies every checksum on the way.
ShardSummary summarise(const std::filesystem::path& path, SampleHashes with_hashes);

}  // namespace llmft
