#include "shard_sink.hpp"

#include <chrono>
#include <span>

#include "llmft/base/clock.hpp"
#include "llmft/base/file.hpp"

namespace llmft {
namespace {
constexpr size_t kBatches = 32;      // of about 1 MB of tokens
constexpr size_t kClosedShards = 2;  // waiting for their fsync, besides the one in it
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

std::map<uint64_t, SplitSummaries> ShardSink::finish(const std::function<void()>& meanwhile) {
  batches_.close();
  while (!committed_all_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    meanwhile();
  }
  writer_.join();
  committer_.join();
  rethrow();
  return std::move(summaries_);
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

ShardSink::Side ShardSink::open(const SplitFolder& split, uint64_t shard) const {
  Side side;
  side.path = split.shard(shard, job_.shards());
  side.writer = std::make_unique<ShardWriter>(side.path, job_.origin(shard, split.split));
  return side;
}

void ShardSink::add(OpenShard& shard, const SampleBatch& batch) const {
  std::span<const uint32_t> rest = batch.tokens;
  for (const SampleBatch::Entry& sample : batch.samples) {
    std::span<const uint32_t> tokens = rest.first(sample.length);
    rest = rest.subspan(sample.length);
    Side& side = sample.valid ? shard.valid : shard.train;
    side.writer->add(tokens, sample.loss_start, sample.row);
    side.summary.add(tokens, sample.loss_start, job_.valid ? SampleHashes::yes : SampleHashes::no);
  }
}

void ShardSink::write_loop() {
  std::unique_ptr<OpenShard> shard;
  while (std::optional<SampleBatch> batch = batches_.pop()) {
    Stopwatch watch;
    if (!shard) {
      shard = std::make_unique<OpenShard>();
      shard->shard = batch->shard;
      shard->train = open(job_.train, batch->shard);
      if (job_.valid) shard->valid = open(*job_.valid, batch->shard);
    }
    add(*shard, *batch);
    if (batch->last) {
      shard->train.summary.counts = batch->train_counts;
      shard->valid.summary.counts = batch->valid_counts;
      shard->train.writer->close(batch->train_counts);
      if (shard->valid.writer) shard->valid.writer->close(batch->valid_counts);
    }
    write_seconds_ += watch.seconds();
    if (batch->last) {
      if (!closed_.push(std::move(*shard))) return;
      shard.reset();
    }
  }
  closed_.close();
}

void ShardSink::commit_loop() {
  while (std::optional<OpenShard> shard = closed_.pop()) {
    Stopwatch watch;
    auto commit = [](Side& side) {
      side.writer->commit();
      side.summary.describe_file(side.path);
    };
    // The training side last: a shard counts as finished when both are there.
    if (shard->valid.writer) commit(shard->valid);
    commit(shard->train);
    summaries_[shard->shard] = {std::move(shard->train.summary), std::move(shard->valid.summary)};
    sync_seconds_ += watch.seconds();
  }
  committed_all_ = true;
}

}  // namespace llmft
