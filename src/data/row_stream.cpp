#include "row_stream.hpp"

#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"

namespace llmft {
namespace {
constexpr size_t kBatchRows = 512;
constexpr size_t kBatchBytes = 1 << 20;  // one row more may be in it
constexpr size_t kBatches = 8;
constexpr size_t kRanges = 2;
}  // namespace

RowStream::RowStream(SourceCursor cursor)
    : cursor_(std::move(cursor)), ranges_(kRanges), batches_(kBatches), thread_([this] { run(); }) {}

RowStream::~RowStream() {
  ranges_.stop();
  batches_.stop();
  thread_.join();
}

void RowStream::request(uint64_t begin, uint64_t end) {
  check(begin < end, "an empty range of rows");
  ++pending_;
  ranges_.push({begin, end});
}

RowBatch RowStream::next() {
  std::optional<RowBatch> batch = batches_.pop();
  if (batch) return std::move(*batch);
  check(error_ != nullptr, "more rows are wanted than were asked for");
  std::rethrow_exception(error_);
}

RowBatch RowStream::read_batch(uint64_t begin, uint64_t end) {
  RowBatch batch = spare_.take();
  batch.text.clear();
  batch.lengths.clear();
  batch.first_row = begin;
  Row row;
  for (; begin < end && batch.lengths.size() < kBatchRows && batch.text.size() < kBatchBytes; ++begin) {
    check(cursor_.next(row), "more rows were counted than there are");
    batch.text.append(row.system_prompt).append(row.question).append(row.response);
    batch.lengths.push_back({row.system_prompt.size(), row.question.size(), row.response.size()});
  }
  batch.last = begin == end;
  return batch;
}

void RowStream::run() {
  try {
    while (std::optional<Range> range = ranges_.pop()) {
      for (uint64_t at = range->begin; at < range->end;) {
        Stopwatch watch;
        if (at == range->begin) cursor_.seek(at);
        RowBatch batch = read_batch(at, range->end);
        seconds_ = seconds_ + watch.seconds();
        at += batch.lengths.size();
        if (batch.last) --pending_;
        if (!batches_.push(std::move(batch))) return;
      }
    }
  } catch (...) {
    error_ = std::current_exception();
    batches_.close();
  }
}

}  // namespace llmft
