#include "shard_job.hpp"

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"

namespace llmft {
namespace {
constexpr uint64_t kRowsBetween = 128;
}

void ShardJob::write(uint64_t shard, SourceCursor& cursor, SampleMaker& maker,
                     const std::function<void(uint64_t)>& between) const {
  ShardOrigin origin{tokenizer_hash, settings, fingerprint,      train.split,
                     shard,          shards(), first_row(shard), end_row(shard) - first_row(shard)};
  ShardWriter train_writer(train.shard(shard, shards()), origin);
  std::optional<ShardWriter> valid_writer;
  if (valid) {
    origin.split = valid->split;
    valid_writer.emplace(valid->shard(shard, shards()), origin);
  }
  ShardCounts train_counts;
  ShardCounts valid_counts;
  Sample sample;
  Row row;
  uint64_t since = 0;
  cursor.seek(first_row(shard));
  for (uint64_t index = first_row(shard); index < end_row(shard); ++index) {
    check(cursor.next(row), "the scan counted more rows than there are");
    if (auto reason = maker.make(row, index, sample)) {
      ++train_counts.drops[static_cast<size_t>(*reason)];
    } else {
      bool to_valid = valid_writer && maker.for_validation(row);
      ShardCounts& mine = to_valid ? valid_counts : train_counts;
      ShardCounts& other = to_valid ? train_counts : valid_counts;
      ++other.other_split;
      if (sample.truncated) ++mine.truncated;
      (to_valid ? *valid_writer : train_writer).add(sample.tokens, sample.loss_start, index);
    }
    if (++since == kRowsBetween || index + 1 == end_row(shard)) {
      between(since);
      since = 0;
    }
  }
  valid_counts.drops = train_counts.drops;
  if (valid_writer) valid_writer->finish(valid_counts);
  train_writer.finish(train_counts);
}

ShardSummary summarise(const std::filesystem::path& path) {
  ShardReader reader(path);
  reader.verify();
  ShardSummary summary;
  summary.counts = reader.counts();
  std::vector<uint64_t> offsets = reader.offsets();
  std::vector<uint32_t> starts = reader.loss_starts();
  for (size_t i = 0; i < starts.size(); ++i) {
    uint64_t length = offsets[i + 1] - offsets[i];
    ++summary.lengths[length];
    summary.shard.loss_tokens += length - starts[i];
  }
  summary.shard.file = path.filename().string();
  summary.shard.bytes = std::filesystem::file_size(path);
  summary.shard.rows = reader.samples();
  summary.shard.tokens = reader.tokens();
  summary.shard.hash = hash_file(path);
  return summary;
}

}  // namespace llmft
