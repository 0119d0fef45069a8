// The samples of a shard folder, in source order, without duplicates, for reading. Token data stay in
// memory-mapped files; what is held in memory is 16 bytes a sample. A chunk's checksum is verified when it is
// first touched.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llmft/data/manifest.hpp"

namespace llmft {

class ShardReader;

// What the shards must have been made with; empty or 0: not checked.
struct ShardExpectation {
  std::string tokenizer_kind;
  std::string tokenizer_hash;
  // The model's. Shards may have fewer ids (models pad their embedding), but not more, and not fewer by more
  // than kVocabularyPadding.
  uint64_t vocabulary_size = 0;
};
constexpr uint64_t kVocabularyPadding = 1024;

class ShardSet {
 public:
  // UserError: no manifest, a shard missing, of another size than the manifest says, damaged, or made with
  // another tokenizer or vocabulary than expected.
  explicit ShardSet(const std::filesystem::path& folder, const ShardExpectation& expected = {});
  ~ShardSet();
  ShardSet(ShardSet&&) noexcept;
  ShardSet(const ShardSet&) = delete;
  ShardSet& operator=(const ShardSet&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }

  uint64_t size() const { return samples_.size(); }
  uint32_t length(uint64_t sample) const { return samples_[sample].length; }
  // Index of the first response token, at least 1.
  uint32_t loss_start(uint64_t sample) const { return samples_[sample].loss_start; }
  // Supervised tokens: length - loss_start.
  uint32_t loss_tokens(uint64_t sample) const { return length(sample) - loss_start(sample); }
  // Appends the sample's tokens. UserError when a checksum does not hold. Safe from several threads.
  void append_tokens(uint64_t sample, std::vector<int32_t>& out) const;
  // Source row it was made from.
  uint64_t row(uint64_t sample) const;
  // Reads everything and checks every checksum.
  void verify() const;

 private:
  struct Sample {
    uint64_t start;  // first token in its shard
    uint32_t length;
    uint32_t loss_start;
  };
  size_t shard_of(uint64_t sample) const;

  std::filesystem::path folder_;
  Manifest manifest_;
  std::vector<std::unique_ptr<ShardReader>> shards_;
  std::vector<uint64_t> first_sample_;  // of each shard, and the total
  std::vector<Sample> samples_;
  // Samples of each shard that are duplicates: how many others stand before each.
  std::vector<std::vector<uint32_t>> left_out_;
};

}  // namespace llmft
