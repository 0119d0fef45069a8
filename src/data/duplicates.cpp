#include "duplicates.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <queue>
#include <string>

#include <nlohmann/json.hpp>

#include "hdf5_handle.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr uint64_t kPartition = uint64_t{4} << 20;  // samples: 64 MB of hashes and rows
constexpr size_t kRunBuffer = 8 * 1024;             // rows of a run that are in memory while runs are merged
constexpr hsize_t kChunk = 4 * 1024;

uint64_t partition_size() {
  const char* text = std::getenv("LLMFT_TEST_PARTITION");
  return text == nullptr ? kPartition : std::max<uint64_t>(std::strtoull(text, nullptr, 10), 1);
}

// Of `count` partitions; hashes are spread evenly.
uint64_t partition_of(uint64_t hash, uint64_t count) {
  return ((hash >> 32) * count) >> 32;
}

struct Key {
  uint64_t hash;
  uint64_t row;
  auto operator<=>(const Key&) const = default;
};

std::vector<Key> keys_of(const SplitShards& split, uint64_t partition, uint64_t count) {
  std::vector<Key> keys;
  for (const fs::path& path : split.paths) {
    SampleKeys shard = read_keys(path);
    for (size_t i = 0; i < shard.hashes.size(); ++i)
      if (partition_of(shard.hashes[i], count) == partition) keys.push_back({shard.hashes[i], shard.rows[i]});
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

// Leaves the first of each hash; returns the rows of the others, ascending.
std::vector<uint64_t> take_repeated(std::vector<Key>& keys) {
  std::vector<uint64_t> rows;
  size_t kept = 0;
  for (const Key& key : keys) {
    if (kept > 0 && keys[kept - 1].hash == key.hash) {
      rows.push_back(key.row);
    } else {
      keys[kept++] = key;
    }
  }
  keys.resize(kept);
  std::sort(rows.begin(), rows.end());
  return rows;
}

uint64_t count_common(const std::vector<Key>& a, const std::vector<Key>& b) {
  uint64_t common = 0;
  for (auto at = a.begin(); const Key& key : b) {
    at = std::lower_bound(at, a.end(), key.hash, [](const Key& k, uint64_t hash) { return k.hash < hash; });
    if (at == a.end()) break;
    if (at->hash == key.hash) ++common;
  }
  return common;
}

// A partition's rows on the way from the rank that found them to rank 0. A run that is killed leaves them
// under a temporary name.
fs::path run_path(const fs::path& folder, uint64_t partition) {
  return folder / fmt::format("duplicates.{}.tmp.run", partition);
}

class RunReader {
 public:
  explicit RunReader(const fs::path& path) : path_(path), file_(path, std::ios::binary) { fill(); }
  bool ended() const { return at_ == buffer_.size(); }
  uint64_t row() const { return buffer_[at_]; }
  void advance() {
    if (++at_ == buffer_.size()) fill();
  }

 private:
  void fill() {
    buffer_.resize(kRunBuffer);
    file_.read(reinterpret_cast<char*>(buffer_.data()), static_cast<std::streamsize>(kRunBuffer * 8));
    if (file_.bad()) user_error("{}: cannot read", path_.string());
    buffer_.resize(static_cast<size_t>(file_.gcount()) / 8);
    at_ = 0;
  }
  fs::path path_;
  std::ifstream file_;
  std::vector<uint64_t> buffer_;
  size_t at_ = 0;
};

// Merges runs into the file that lists all of them.
Manifest::Duplicates merge_runs(const fs::path& folder, const std::vector<uint64_t>& partitions,
                                const std::string& fingerprint) {
  Manifest::Duplicates out;
  fs::path path = folder / kDuplicatesName;
  if (partitions.empty()) {
    std::error_code none;
    fs::remove(path, none);
    return out;
  }
  std::vector<RunReader> runs;
  for (uint64_t partition : partitions) runs.emplace_back(run_path(folder, partition));
  using Head = std::pair<uint64_t, size_t>;
  std::priority_queue<Head, std::vector<Head>, std::greater<>> heads;
  for (size_t i = 0; i < runs.size(); ++i) heads.emplace(runs[i].row(), i);
  hdf5::NewFile file(path);
  hdf5::Handle set = file.create_dataset("row", H5T_STD_U64LE, kChunk);
  std::vector<uint64_t> buffer;
  auto flush = [&] {
    file.append(set, H5T_NATIVE_UINT64, out.rows, buffer.size(), buffer.data());
    out.rows += buffer.size();
    buffer.clear();
  };
  while (!heads.empty()) {
    auto [row, run] = heads.top();
    heads.pop();
    buffer.push_back(row);
    if (buffer.size() == kChunk * 16) flush();
    runs[run].advance();
    if (!runs[run].ended()) heads.emplace(runs[run].row(), run);
  }
  flush();
  file.finish(set);
  file.attribute("format", "llmft-duplicates");
  file.attribute("format_version", static_cast<uint64_t>(kShardFormatVersion));
  file.attribute("fingerprint", fingerprint);
  file.close();
  file.commit();
  for (uint64_t partition : partitions) fs::remove(run_path(folder, partition));
  out.file = kDuplicatesName;
  out.bytes = fs::file_size(path);
  out.hash = hash_file(path);
  return out;
}

}  // namespace

uint64_t find_duplicates(const Process& process, std::span<const SplitShards> splits, uint64_t samples,
                         const std::function<void(size_t, uint64_t, std::vector<uint64_t>)>& found) {
  auto ranks = static_cast<uint64_t>(process.size());
  uint64_t count = (samples + partition_size() - 1) / partition_size();
  count = std::max<uint64_t>((count + ranks - 1) / ranks, 1) * ranks;
  int64_t overlap = 0;
  for (uint64_t p = static_cast<uint64_t>(process.rank()); p < count; p += ranks) {
    std::vector<std::vector<Key>> keys;
    for (size_t split = 0; split < splits.size(); ++split) {
      keys.push_back(keys_of(splits[split], p, count));
      found(split, p, take_repeated(keys.back()));
    }
    if (keys.size() == 2) overlap += static_cast<int64_t>(count_common(keys[0], keys[1]));
  }
  process.all_reduce_sum(std::span(&overlap, 1));
  return static_cast<uint64_t>(overlap);
}

Duplicates write_duplicates(const Process& process, std::span<const SplitShards> splits, uint64_t samples,
                            const std::string& fingerprint) {
  Duplicates out;
  std::vector<std::vector<uint64_t>> mine(splits.size());
  out.overlap = find_duplicates(process, splits, samples, [&](size_t split, uint64_t partition, auto rows) {
    if (rows.empty()) return;
    write_file_atomic(run_path(splits[split].folder, partition),
                      {reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof(uint64_t)});
    mine[split].push_back(partition);
  });
  for (size_t split = 0; split < splits.size(); ++split) {
    std::vector<uint64_t> partitions = process.all_gather(std::span<const uint64_t>(mine[split]));
    std::string text;
    if (process.is_root()) {
      Manifest::Duplicates d = merge_runs(splits[split].folder, partitions, fingerprint);
      text = json({d.file, d.bytes, d.rows, d.hash}).dump();
    }
    json root = json::parse(process.broadcast(text));
    out.files.push_back({root[0], root[1], root[2], root[3]});
  }
  return out;
}

SplitTotals count_duplicates(const Process& process, const SplitShards& split,
                             const DuplicateRows& duplicates, uint64_t rows_per_shard,
                             TokenId end_of_response) {
  SplitTotals totals;
  SharedCounter claims(process);
  for (uint64_t i = claims.next(); i < split.paths.size(); i = claims.next()) {
    claims.progress();
    std::vector<uint64_t> repeated = duplicates.in(i * rows_per_shard, (i + 1) * rows_per_shard);
    if (repeated.empty()) continue;
    ShardReader reader(split.paths[i]);
    std::vector<uint64_t> rows = reader.rows();
    std::vector<uint64_t> offsets = reader.offsets();
    std::vector<uint32_t> starts = reader.loss_starts();
    // Samples that were cut are the longest there are; only of those as long the last token is read, and its
    // chunk with it.
    uint64_t longest = 0;
    if (reader.counts().truncated > 0)
      for (size_t k = 0; k < starts.size(); ++k) longest = std::max(longest, offsets[k + 1] - offsets[k]);
    ShardSummary summary;
    for (uint64_t row : repeated) {
      auto at = static_cast<size_t>(std::lower_bound(rows.begin(), rows.end(), row) - rows.begin());
      if (at == rows.size() || rows[at] != row)
        user_error("{}: lists row {}, which {} does not have", (split.folder / kDuplicatesName).string(), row,
                   split.paths[i].string());
      const uint64_t length = offsets[at + 1] - offsets[at];
      summary.add(length, starts[at]);
      if (length != longest) continue;
      std::vector<int32_t> last;
      reader.append_tokens(offsets[at + 1] - 1, 1, last);
      if (static_cast<TokenId>(last[0]) != end_of_response) ++summary.counts.truncated;
    }
    totals.add(summary);
  }
  return totals;
}

}  // namespace llmft
