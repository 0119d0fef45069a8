// Writes shards in two threads of its own: one fills the HDF5 files, which is the only place that uses HDF5
// while a sink lives; the other brings finished files to the disk and renames them. A shard is there, under
// its name, only after fsync.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "bounded_queue.hpp"
#include "shard_job.hpp"

namespace llmft {

// Some consecutive samples of a shard, of both splits.
struct SampleBatch {
  struct Entry {
    uint64_t row;
    uint64_t hash;
    uint32_t length;
    uint32_t loss_start;
    uint32_t split;
  };
  uint64_t shard = 0;
  std::vector<uint32_t> tokens;  // of all samples, one after another
  std::vector<Entry> samples;
  bool last = false;                  // of the shard; then with the counts of the whole of it
  std::array<ShardCounts, 2> counts;  // by split
};

class ShardSink {
 public:
  explicit ShardSink(const ShardJob& job);
  // Shards that are not committed leave nothing.
  ~ShardSink();
  ShardSink(const ShardSink&) = delete;
  ShardSink& operator=(const ShardSink&) = delete;

  // An empty batch to be filled.
  SampleBatch spare();
  // Shards come one after another. Waits while too much is on its way to the disk, calling meanwhile now and
  // then. Rethrows what the threads met.
  void push(SampleBatch batch, const std::function<void()>& meanwhile);
  // Waits until every shard is committed; then what they hold.
  MadeShards finish(const std::function<void()>& meanwhile);

  // After finish().
  double write_seconds() const { return write_seconds_; }
  double sync_seconds() const { return sync_seconds_; }

 private:
  struct Side {
    std::unique_ptr<ShardWriter> writer;
    std::filesystem::path path;
    ShardSummary summary;
  };
  struct OpenShard {
    uint64_t shard = 0;
    std::vector<Side> sides;  // by split
  };
  void write_loop();
  void commit_loop();
  void run(void (ShardSink::*loop)());
  void rethrow();

  const ShardJob& job_;
  BoundedQueue<SampleBatch> batches_;
  SpareList<SampleBatch> spare_;
  BoundedQueue<OpenShard> closed_;
  MadeShards made_;
  double write_seconds_ = 0;
  double sync_seconds_ = 0;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::atomic<bool> committed_all_ = false;
  std::thread writer_;
  std::thread committer_;
};

}  // namespace llmft
