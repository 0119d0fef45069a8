// Reads and decodes rows in a thread of its own, a few batches ahead of whoever uses them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bounded_queue.hpp"
#include "llmft/data/orca_reader.hpp"

namespace llmft {

// Consecutive rows, copied out of the reader's buffers.
struct RowBatch {
  uint64_t first_row = 0;
  bool last = false;  // of the range asked for
  std::string text;
  std::vector<std::array<size_t, 3>> lengths;  // of a row's fields, which lie in text one after another
};

class RowStream {
 public:
  explicit RowStream(SourceCursor cursor);
  ~RowStream();
  RowStream(const RowStream&) = delete;
  RowStream& operator=(const RowStream&) = delete;

  // Rows [begin, end), at least one; ranges come in the order asked for.
  void request(uint64_t begin, uint64_t end);
  // All that was asked for has been read; true at the latest when the last batch of a range is handed out.
  bool idle() const { return pending_ == 0; }
  // The next batch of what was asked for; waits. Rethrows what the reader met.
  RowBatch next();
  // Gives a batch back whose memory may be used again.
  void recycle(RowBatch batch) { spare_.put(std::move(batch)); }
  // Time spent reading and decoding; when the thread has nothing to do.
  double seconds() const { return seconds_; }

 private:
  struct Range {
    uint64_t begin;
    uint64_t end;
  };
  void run();
  RowBatch read_batch(uint64_t begin, uint64_t end);

  SourceCursor cursor_;
  BoundedQueue<Range> ranges_;
  BoundedQueue<RowBatch> batches_;
  SpareList<RowBatch> spare_;
  std::atomic<int> pending_ = 0;
  std::atomic<double> seconds_ = 0;
  std::exception_ptr error_;  // set before batches_ is closed
  std::thread thread_;
};

}  // namespace llmft
