#include "shard_job.hpp"

#include "llmft/base/file.hpp"

namespace llmft {

ShardOrigin ShardJob::origin(uint64_t shard, size_t split) const {
  return {tokenizer_hash, settings, fingerprint,      splits[split].split,
          shard,          shards(), first_row(shard), end_row(shard) - first_row(shard)};
}

std::vector<std::filesystem::path> ShardJob::paths(size_t split) const {
  std::vector<std::filesystem::path> out;
  out.reserve(shards());
  for (uint64_t i = 0; i < shards(); ++i) out.push_back(splits[split].shard(i, shards()));
  return out;
}

void ShardSummary::add(uint64_t length, uint32_t loss_start) {
  ++shard.rows;
  shard.tokens += length;
  shard.loss_tokens += length - loss_start;
  ++lengths[length];
}

void ShardSummary::describe_file(const std::filesystem::path& path) {
  shard.file = path.filename().string();
  shard.bytes = std::filesystem::file_size(path);
  shard.hash = hash_file(path);
}

ShardSummary summarise(const std::filesystem::path& path) {
  ShardReader reader(path);
  reader.verify();
  ShardSummary summary;
  summary.counts = reader.counts();
  std::vector<uint64_t> offsets = reader.offsets();
  std::vector<uint32_t> starts = reader.loss_starts();
  for (size_t i = 0; i < starts.size(); ++i) summary.add(offsets[i + 1] - offsets[i], starts[i]);
  summary.describe_file(path);
  return summary;
}

void SplitTotals::add(const ShardSummary& s) {
  add(SplitTotals{s.shard.rows, s.shard.tokens, s.shard.loss_tokens, s.counts, s.lengths});
}

void SplitTotals::add(const SplitTotals& other) {
  samples += other.samples;
  tokens += other.tokens;
  loss_tokens += other.loss_tokens;
  for (size_t i = 0; i < counts.drops.size(); ++i) counts.drops[i] += other.counts.drops[i];
  counts.other_split += other.counts.other_split;
  counts.truncated += other.counts.truncated;
  for (auto& [length, count] : other.lengths) lengths[length] += count;
}

void SplitTotals::subtract(const SplitTotals& other) {
  samples -= other.samples;
  tokens -= other.tokens;
  loss_tokens -= other.loss_tokens;
  counts.truncated -= other.counts.truncated;
  for (auto& [length, count] : other.lengths)
    if ((lengths[length] -= count) == 0) lengths.erase(length);
}

void MadeShards::add(uint64_t shard, const std::vector<ShardSummary>& splits) {
  for (size_t i = 0; i < splits.size(); ++i) {
    shards[shard].push_back(splits[i].shard);
    totals[i].add(splits[i]);
  }
}

}  // namespace llmft
