#include "shard_making.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <thread>
#include <unordered_set>
#include <utility>

#include <nlohmann/json.hpp>

#include "hash_set.hpp"
#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/progress.hpp"
#include "llmft/base/text.hpp"
#include "row_stream.hpp"
#include "sample_maker.hpp"
#include "shard_claims.hpp"
#include "shard_sink.hpp"
#include "timed_tokenizer.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr uint64_t kProgressRows = 1024;  // one count of the shared progress counter
constexpr uint64_t kMeasuredRows = 16;    // one row in so many is measured in detail

std::chrono::milliseconds slowness(const Process& process) {
  const char* text = std::getenv("LLMFT_TEST_SLOW_RANK");  // RANK:MILLISECONDS, or *:MILLISECONDS
  int rank = process.rank();
  int milliseconds = 0;
  if (text == nullptr || (std::sscanf(text, "*:%d", &milliseconds) != 1 &&
                          std::sscanf(text, "%d:%d", &rank, &milliseconds) != 2))
    return {};
  return std::chrono::milliseconds(rank == process.rank() ? milliseconds : 0);
}

class Making {
 public:
  Making(const Process& process, const Tokenizer& tokenizer, const PreprocessOptions& options,
         const Sources& sources, const ShardJob& job, StageTimes& times)
      : process_(process),
        sources_(sources),
        job_(job),
        times_(times),
        tokenizer_(tokenizer),
        maker_(tokenizer_, options),
        slowness_(slowness(process)) {}

  MadeShards run(const std::vector<uint64_t>& finished) {
    MadeShards kept = look_at(finished);
    Stopwatch watch;
    std::unordered_set<uint64_t> whole;
    json shards = json::array();
    for (auto& [shard, ignored] : kept.shards) shards.push_back(shard);
    for (const std::string& text : process_.all_gather(shards.dump()))
      for (const json& shard : json::parse(text)) whole.insert(shard.get<uint64_t>());
    times_.wait += watch.seconds();
    for (uint64_t shard = 0; shard < job_.shards(); ++shard) {
      if (whole.contains(shard)) continue;
      to_do_.push_back(shard);
      rows_to_do_ += job_.end_row(shard) - job_.first_row(shard);
    }
    MadeShards made = make();
    for (size_t split = 0; split < job_.splits.size(); ++split) made.totals[split].add(kept.totals[split]);
    made.shards.merge(kept.shards);
    return made;
  }

 private:
  // Finished shards, shared among the ranks; damaged ones are left out.
  MadeShards look_at(const std::vector<uint64_t>& finished) {
    MadeShards mine;
    Stopwatch watch;
    SharedCounter claims(process_);
    for (uint64_t i = claims.next(); i < finished.size(); i = claims.next()) {
      claims.progress();
      fs::path path;
      try {
        std::vector<ShardSummary> splits;
        for (const SplitFolder& split : job_.splits) {
          path = split.shard(finished[i], job_.shards());
          splits.push_back(summarise(path));
        }
        mine.add(finished[i], splits);
      } catch (const UserError&) {
        log::warn("{}: damaged shard; it is made anew", path.string());
      }
    }
    times_.read += watch.seconds();
    return mine;
  }

  MadeShards make() {
    Progress progress("preprocess", rows_to_do_);
    Stopwatch since_start;
    ShardClaims claims(process_, sources_, job_.rows_per_shard, to_do_);
    SharedCounter blocks(process_);
    SharedCounter left(process_);
    auto show = [&](uint64_t counted) {
      uint64_t done = std::min(counted * kProgressRows, rows_to_do_);
      progress.update(done, rate(static_cast<double>(done) / since_start.seconds()));
    };
    auto meanwhile = [&] { claims.progress(); };
    RowStream rows(SourceCursor(sources_.files, sources_.pieces));
    ShardSink sink(job_);
    std::deque<uint64_t> claimed;  // whose last batch has not come
    std::deque<uint64_t> unit;     // the rest of what is claimed
    bool more = true;
    uint64_t uncounted = 0;
    while (true) {
      Stopwatch watch;
      if (more && rows.idle()) {
        if (unit.empty()) {
          std::vector<uint64_t> next = claims.next();
          unit.assign(next.begin(), next.end());
        }
        more = !unit.empty();
        if (more) {
          uint64_t shard = unit.front();
          unit.pop_front();
          claimed.push_back(shard);
          rows.request(job_.first_row(shard), job_.end_row(shard));
        }
      }
      if (claimed.empty()) break;
      RowBatch batch = rows.next();
      times_.wait += watch.seconds();
      SampleBatch samples = encode(batch, claimed.front(), sink.spare());
      if (batch.last) claimed.pop_front();
      size_t count = batch.lengths.size();
      rows.recycle(std::move(batch));
      watch.reset();
      sink.push(std::move(samples), meanwhile);
      times_.wait += watch.seconds();
      claims.progress();
      for (uncounted += count; uncounted >= kProgressRows; uncounted -= kProgressRows)
        show(blocks.next() + 1);
    }
    Stopwatch watch;
    MadeShards mine = sink.finish(meanwhile);
    left.next();
    // Rank 0 goes on showing what the others do.
    while (process_.is_root() && left.read() < static_cast<uint64_t>(process_.size())) {
      show(blocks.read());
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    process_.barrier();
    times_.wait += watch.seconds();
    times_.decode = rows.seconds();
    times_.write = sink.write_seconds();
    times_.sync = sink.sync_seconds();
    progress.finish(rate(static_cast<double>(rows_to_do_) / since_start.seconds()));
    return mine;
  }

  SampleBatch encode(const RowBatch& rows, uint64_t shard, SampleBatch out) {
    Stopwatch watch;
    out.shard = shard;
    out.last = rows.last;
    out.tokens.reserve(rows.text.size() / 3);
    out.samples.reserve(rows.lengths.size());
    std::string_view rest = rows.text;
    auto take = [&](size_t bytes) {
      std::string_view field = rest.substr(0, bytes);
      rest.remove_prefix(bytes);
      return field;
    };
    double measured = 0;
    tokenizer_.seconds = 0;
    for (size_t i = 0; i < rows.lengths.size(); ++i) {
      Row row;
      row.system_prompt = take(rows.lengths[i][0]);
      row.question = take(rows.lengths[i][1]);
      row.response = take(rows.lengths[i][2]);
      tokenizer_.measuring = i % kMeasuredRows == 0;
      if (tokenizer_.measuring) {
        Stopwatch one;
        add(row, rows.first_row + i, out);
        measured += one.seconds();
      } else {
        add(row, rows.first_row + i, out);
      }
    }
    if (out.last) {
      counts_[1].drops = counts_[0].drops;
      out.counts = std::exchange(counts_, {});
      for (auto& hashes : seen_) hashes.clear();
    }
    if (slowness_.count() > 0) std::this_thread::sleep_for(slowness_);
    double seconds = watch.seconds();
    double tokenize = measured > 0 ? seconds * tokenizer_.seconds / measured : 0;
    times_.tokenize += tokenize;
    times_.chat_template += seconds - tokenize;
    times_.rows += static_cast<double>(rows.lengths.size());
    times_.text_bytes += static_cast<double>(rows.text.size());
    return out;
  }

  void add(const Row& row, uint64_t index, SampleBatch& out) {
    size_t begin = out.tokens.size();
    Sample sample;
    std::optional<DropReason> reason = maker_.make(row, out.tokens, sample);
    size_t split = 0;
    uint64_t hash = 0;
    if (!reason) {
      split = maker_.for_validation(row) ? 1 : 0;
      hash = sample_hash(std::span<const uint32_t>(out.tokens).subspan(begin));
      if (!seen_[split].insert(hash)) {
        reason = DropReason::duplicate;
        out.tokens.resize(begin);
      }
    }
    if (reason) {
      ++counts_[0].drops[static_cast<size_t>(*reason)];
      return;
    }
    ++counts_[1 - split].other_split;
    if (sample.truncated) ++counts_[split].truncated;
    out.samples.push_back({index, hash, sample.length, sample.loss_start, static_cast<uint32_t>(split)});
  }

  // Text a row is that of this rank's rows so far.
  std::string rate(double rows_per_second) const {
    return fmt::format("{} rows/s, {:.1f} MB/s of text", human_count(rows_per_second),
                       rows_per_second * times_.text_bytes / std::max(times_.rows, 1.0) / 1e6);
  }

  const Process& process_;
  const Sources& sources_;
  const ShardJob& job_;
  StageTimes& times_;
  TimedTokenizer tokenizer_;
  SampleMaker maker_;
  std::chrono::milliseconds slowness_;
  std::vector<uint64_t> to_do_;  // shards
  uint64_t rows_to_do_ = 0;
  // Of the shard in work, by split.
  std::array<ShardCounts, 2> counts_;
  std::array<HashSet, 2> seen_;
};

}  // namespace

MadeShards make_shards(const Process& process, const Tokenizer& tokenizer, const PreprocessOptions& options,
                       const Sources& sources, const ShardJob& job, const std::vector<uint64_t>& finished,
                       StageTimes& times) {
  return Making(process, tokenizer, options, sources, job, times).run(finished);
}

}  // namespace llmft
