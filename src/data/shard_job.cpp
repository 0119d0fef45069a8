#include "shard_job.hpp"

#include "llmft/base/file.hpp"

namespace llmft {

ShardOrigin ShardJob::origin(uint64_t shard, const std::string& split) const {
  return {tokenizer_hash, settings, fingerprint,      split,
          shard,          shards(), first_row(shard), end_row(shard) - first_row(shard)};
}

void ShardSummary::add(std::span<const uint32_t> tokens, uint32_t loss_start, SampleHashes with_hashes) {
  ++shard.rows;
  shard.tokens += tokens.size();
  shard.loss_tokens += tokens.size() - loss_start;
  ++lengths[tokens.size()];
  if (with_hashes == SampleHashes::yes)
    hashes.push_back(hash64({reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()}));
}

void ShardSummary::describe_file(const std::filesystem::path& path) {
  shard.file = path.filename().string();
  shard.bytes = std::filesystem::file_size(path);
  shard.hash = hash_file(path);
}

ShardSummary summarise(const std::filesystem::path& path, SampleHashes with_hashes) {
  ShardReader reader(path);
  reader.verify();
  ShardSummary summary;
  summary.counts = reader.counts();
  std::vector<uint64_t> offsets = reader.offsets();
  std::vector<uint32_t> starts = reader.loss_starts();
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < starts.size(); ++i) {
    tokens.clear();
    reader.append_tokens(offsets[i], offsets[i + 1] - offsets[i], tokens);
    summary.add({reinterpret_cast<const uint32_t*>(tokens.data()), tokens.size()}, starts[i], with_hashes);
  }
  summary.describe_file(path);
  return summary;
}

}  // namespace llmft
