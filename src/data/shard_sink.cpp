#include "shard_sink.hpp"

#include <chrono>
#include <span>

#include "llmft/base/clock.hpp"
#include "llmft/base/file.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {
constexpr size_t kBatches = 32;              // of about 1 MB of tokens
constexpr uint64_t kHeaderBytes = 64 << 10;  // at least, of a shard's file
constexpr size_t kClosedShards = 2;          // waiting for their fsync, besides the one in it
}  // namespace

ShardSink::ShardSink(const ShardJob& job)
    : job_(job),
      batches_(kBatches),
      closed_(kClosedShards),
      writer_([this] { run(&ShardSink::write_loop); }),
      committer_([this] { run(&ShardSink::commit_loop); }) {}

ShardSink::~ShardSink() {
  batches_.stop();
  closed_.stop();
  if (writer_.joinable()) writer_.join();
  if (committer_.joinable()) committer_.join();
}

void ShardSink::push(SampleBatch batch, const std::function<void()>& meanwhile) {
  if (!batches_.push(std::move(batch), meanwhile)) rethrow();
}

MadeShards ShardSink::finish(const std::function<void()>& meanwhile) {
  batches_.close();
  while (!committed_all_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    meanwhile();
  }
  writer_.join();
  committer_.join();
  rethrow();
  return std::move(made_);
}

void ShardSink::rethrow() {
  std::lock_guard lock(error_mutex_);
  if (error_) std::rethrow_exception(error_);
}

void ShardSink::run(void (ShardSink::*loop)()) {
  try {
    (this->*loop)();
  } catch (...) {
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
  std::lock_guard lock(error_mutex_);
  if (error_) {
    batches_.stop();
    closed_.stop();
    committed_all_ = true;
  }
}

SampleBatch ShardSink::spare() {
  SampleBatch batch = spare_.take();
  batch.tokens.clear();
  batch.samples.clear();
  return batch;
}

void ShardSink::write_loop() {
  std::unique_ptr<OpenShard> shard;
  while (std::optional<SampleBatch> batch = batches_.pop()) {
    Stopwatch watch;
    if (!shard) {
      shard = std::make_unique<OpenShard>();
      shard->shard = batch->shard;
      for (size_t split = 0; split < job_.splits.size(); ++split) {
        fs::path path = job_.splits[split].shard(batch->shard, job_.shards());
        auto writer = std::make_unique<ShardWriter>(path, job_.origin(batch->shard, split));
        shard->sides.push_back({std::move(writer), path, {}});
      }
    }
    std::span<const uint32_t> rest = batch->tokens;
    for (const SampleBatch::Entry& sample : batch->samples) {
      Side& side = shard->sides[sample.split];
      side.writer->add(rest.first(sample.length), sample.loss_start, sample.row, sample.hash);
      side.summary.add(sample.length, sample.loss_start);
      rest = rest.subspan(sample.length);
    }
    bool last = batch->last;
    for (size_t split = 0; last && split < shard->sides.size(); ++split) {
      shard->sides[split].summary.counts = batch->counts[split];
      shard->sides[split].writer->close(batch->counts[split]);
    }
    spare_.put(std::move(*batch));
    write_seconds_ += watch.seconds();
    if (!last) continue;
    if (!closed_.push(std::move(*shard))) return;
    shard.reset();
  }
  closed_.close();
}

void ShardSink::commit_loop() {
  while (std::optional<OpenShard> shard = closed_.pop()) {
    Stopwatch watch;
    std::vector<ShardSummary> summaries(shard->sides.size());
    // The training side last: a shard counts as finished when both are there.
    for (size_t split = shard->sides.size(); split-- > 0;) {
      Side& side = shard->sides[split];
      side.writer->commit();
      side.summary.describe_file(side.path);
      // The next shards get this memory, and not ever more of it. The tokens come first in the file; what
      // follows them is read once more, when duplicates are looked for.
      drop_from_cache(side.path, kHeaderBytes, side.summary.shard.tokens * sizeof(uint32_t));
      summaries[split] = std::move(side.summary);
    }
    made_.add(shard->shard, summaries);
    sync_seconds_ += watch.seconds();
  }
  committed_all_ = true;
}

}  // namespace llmft
