// One HDF5 file of tokenized samples, docs/shards.md has the format. The bytes are a function of what is
// added alone: no times, no host, fixed library-version bounds, one writer, data in the order added.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llmft/data/manifest.hpp"

namespace llmft {

// What a shard was made from: attributes of the file.
struct ShardOrigin {
  std::string tokenizer_hash;
  std::string settings;     // JSON object: what the bytes depend on, for saying what differs
  std::string fingerprint;  // hash of settings
  std::string split;        // "train" or "validation"
  uint64_t index = 0;       // of count shards
  uint64_t count = 1;
  uint64_t first_row = 0;  // source rows [first_row, first_row + rows)
  uint64_t rows = 0;
};

// What became of the source rows that gave no sample here, and of those that were cut.
struct ShardCounts {
  DropCounts drops{};  // of both splits; duplicates of the same shard only
  uint64_t other_split = 0;
  uint64_t truncated = 0;
};

// Of a sample's tokens: what makes it a duplicate of another. XXH3-64 of the little-endian ids.
uint64_t sample_hash(std::span<const uint32_t> tokens);

// Writes to a temporary name; the file appears under its own at commit(). Holds 28 bytes a sample and one
// buffer of tokens. UserError on a full disk and the like; the temporary file is removed on every way out.
class ShardWriter {
 public:
  ShardWriter(std::filesystem::path path, ShardOrigin origin);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  // hash: sample_hash(tokens).
  void add(std::span<const uint32_t> tokens, uint32_t loss_start, uint64_t row, uint64_t hash);
  void add(std::span<const uint32_t> tokens, uint32_t loss_start, uint64_t row) {
    add(tokens, loss_start, row, sample_hash(tokens));
  }
  // All but the last step: the file is complete, but has its temporary name and may not be on the disk yet.
  void close(const ShardCounts& counts);
  // After close(): fsync and rename. Uses no HDF5, and may run in another thread than the rest.
  void commit();
  void finish(const ShardCounts& counts) {
    close(counts);
    commit();
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Reads a shard through a memory map; each chunk's Fletcher32 is checked when first touched. UserError on
// anything that is not a whole shard of this format, with path and reason. Safe from several threads.
class ShardReader {
 public:
  explicit ShardReader(const std::filesystem::path& path);
  ~ShardReader();

  const std::filesystem::path& path() const;
  const ShardOrigin& origin() const;
  const ShardCounts& counts() const;

  uint64_t samples() const;
  uint64_t tokens() const;
  std::vector<uint64_t> offsets() const;      // [samples+1]
  std::vector<uint32_t> loss_starts() const;  // [samples]
  uint64_t row(uint64_t sample) const;
  uint64_t offset(uint64_t sample) const;  // sample <= samples()
  uint32_t loss_start(uint64_t sample) const;
  std::vector<uint64_t> rows() const;    // [samples], ascending
  std::vector<uint64_t> hashes() const;  // [samples]
  // Appends tokens [begin, begin + count).
  void append_tokens(uint64_t begin, uint64_t count, std::vector<int32_t>& out) const;
  // Touches every chunk, checks that offsets, loss_start and hashes fit the tokens.
  void verify() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The hashes and source rows of a shard, read without the rest of it. Holds 16 bytes a sample.
struct SampleKeys {
  std::vector<uint64_t> hashes;
  std::vector<uint64_t> rows;
};
SampleKeys read_keys(const std::filesystem::path& path);

// "shard-00017-of-00064.h5"
std::string shard_name(uint64_t index, uint64_t count);

}  // namespace llmft
