// The second pass: one shard (with its validation side) from its source rows, and what it then holds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "llmft/data/manifest.hpp"
#include "llmft/data/orca_reader.hpp"
#include "llmft/data/shard_file.hpp"
#include "sample_maker.hpp"

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

  // between: called after every few rows with their number.
  void write(uint64_t shard, SourceCursor& cursor, SampleMaker& maker,
             const std::function<void(uint64_t)>& between) const;
};

// What the manifest needs to know of a shard; read from the file as it was written.
struct ShardSummary {
  Manifest::Shard shard;
  ShardCounts counts;
  std::map<uint64_t, uint64_t> lengths;  // tokens of a sample -> samples
};

// Verifies every checksum on the way.
ShardSummary summarise(const std::filesystem::path& path);

}  // namespace llmft
