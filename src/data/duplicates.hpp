// Samples that are those of an earlier shard of their folder, found from the hashes in the shards after all
// of them are made; and validation samples that are also training ones. Exact (by 64-bit hashes), in memory
// that does not depend on how many samples there are: the hashes are cut into partitions, and for each a rank
// reads all shards' hashes and keeps its part.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "llmft/comm/process.hpp"
#include "llmft/tokenizer/tokenizer.hpp"
#include "shard_job.hpp"

namespace llmft {

struct SplitShards {
  std::filesystem::path folder;
  std::vector<std::filesystem::path> paths;
};

// Collective. found(split, partition, rows) is called with the source rows, ascending, of the duplicates in
// each partition that is this rank's. Returns how many samples of the second split, duplicates not counted,
// are also in the first. samples: of all splits together, the same on every rank. Test hook:
// LLMFT_TEST_PARTITION=ENTRIES is the size of a partition.
uint64_t find_duplicates(
    const Process& process, std::span<const SplitShards> splits, uint64_t samples,
    const std::function<void(size_t split, uint64_t partition, std::vector<uint64_t> rows)>& found);

// The file that lists them: dataset /row, uint64, ascending, with checksums.
class DuplicateRows {
 public:
  // UserError: cannot be read, or is damaged.
  explicit DuplicateRows(const std::filesystem::path& path);
  ~DuplicateRows();
  DuplicateRows(DuplicateRows&&) noexcept;
  uint64_t size() const;
  // Those in [begin, end).
  std::vector<uint64_t> in(uint64_t begin, uint64_t end) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

constexpr const char* kDuplicatesName = "duplicates.h5";

// Collective: find_duplicates, and for each split the file in its folder, written by rank 0 from what the
// others leave there for it; no file where there are none. Returns what the manifests say, on every rank.
struct Duplicates {
  std::vector<Manifest::Duplicates> files;  // by split
  uint64_t overlap = 0;
};
Duplicates write_duplicates(const Process& process, std::span<const SplitShards> splits, uint64_t samples,
                            const std::string& fingerprint);

// Collective: the sums of the samples in duplicates that this rank looked at.
SplitTotals count_duplicates(const Process& process, const SplitShards& split,
                             const DuplicateRows& duplicates, uint64_t rows_per_shard,
                             TokenId end_of_response);

}  // namespace llmft
