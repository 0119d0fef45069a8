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

#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/progress.hpp"
#include "llmft/base/text.hpp"
#include "row_stream.hpp"
#include "sample_maker.hpp"
#include "shard_sink.hpp"
#include "timed_tokenizer.hpp"

namespace llmft {
namespace {

using nlohmann::json;

constexpr uint64_t kProgressRows = 1024;  // one count of the shared progress counter
constexpr uint64_t kMeasuredRows = 16;    // one row in so many is measured in detail

// A shard as text for the other ranks.
json pack(const ShardSummary& s) {
  json lengths = json::array();
  for (auto& [length, count] : s.lengths) lengths.push_back({length, count});
  return {s.shard.file, s.shard.bytes,  s.shard.rows,         s.shard.tokens,     s.shard.loss_tokens,
          s.shard.hash, s.counts.drops, s.counts.other_split, s.counts.truncated, lengths};
}
ShardSummary unpack(const json& j) {
  ShardSummary s;
  s.shard = {j[0], j[1], j[2], j[3], j[4], j[5]};
  s.counts = {j[6].get<std::array<uint64_t, 4>>(), j[7], j[8]};
  for (const json& entry : j[9]) s.lengths[entry[0]] = entry[1];
  return s;
}

std::chrono::milliseconds slowness(const Process& process) {
  const char* text = std::getenv("LLMFT_TEST_SLOW_RANK");
  int rank = 0;
  int milliseconds = 0;
  if (text == nullptr || std::sscanf(text, "%d:%d", &rank, &milliseconds) != 2) return {};
  return std::chrono::milliseconds(rank == process.rank() ? milliseconds : 0);
}

class Making {
 public:
  Making(const Process& process, const Tokenizer& tokenizer, const PreprocessOptions& options,
         const Sources& sources, const Scan& scan, const ShardJob& job, StageTimes& times)
      : process_(process),
        sources_(sources),
        scan_(scan),
        job_(job),
        times_(times),
        tokenizer_(tokenizer),
        maker_(tokenizer_, options, scan.duplicates),
        slowness_(slowness(process)) {}

  Summaries run(const std::vector<uint64_t>& finished) {
    std::map<uint64_t, SplitSummaries> mine = look_at(finished);
    Stopwatch watch;
    std::unordered_set<uint64_t> whole;
    json shards = json::array();
    for (auto& [shard, ignored] : mine) shards.push_back(shard);
    for (const std::string& text : process_.all_gather(shards.dump()))
      for (const json& shard : json::parse(text)) whole.insert(shard.get<uint64_t>());
    times_.wait += watch.seconds();
    for (uint64_t shard = 0; shard < job_.shards(); ++shard) {
      if (whole.contains(shard)) continue;
      to_do_.push_back(shard);
      rows_to_do_ += job_.end_row(shard) - job_.first_row(shard);
    }
    mine.merge(make());
    return share(mine);
  }

 private:
  SampleHashes with_hashes() const { return job_.valid ? SampleHashes::yes : SampleHashes::no; }

  // Finished shards, shared among the ranks; damaged ones are left out.
  std::map<uint64_t, SplitSummaries> look_at(const std::vector<uint64_t>& finished) {
    std::map<uint64_t, SplitSummaries> mine;
    Stopwatch watch;
    SharedCounter claims(process_);
    for (uint64_t i = claims.next(); i < finished.size(); i = claims.next()) {
      uint64_t shard = finished[i];
      claims.progress();
      try {
        SplitSummaries both;
        both.train = summarise(job_.train.shard(shard, job_.shards()), with_hashes());
        if (job_.valid) both.valid = summarise(job_.valid->shard(shard, job_.shards()), with_hashes());
        mine[shard] = std::move(both);
      } catch (const UserError&) {
        log::warn("{}: damaged shard; it is made anew", job_.train.shard(shard, job_.shards()).string());
      }
    }
    times_.read += watch.seconds();
    return mine;
  }

  std::map<uint64_t, SplitSummaries> make() {
    Progress progress("preprocess", rows_to_do_);
    Stopwatch since_start;
    SharedCounter claims(process_);
    SharedCounter blocks(process_);
    SharedCounter left(process_);
    auto show = [&](uint64_t counted) {
      uint64_t done = std::min(counted * kProgressRows, rows_to_do_);
      progress.update(done, rate(done, since_start.seconds()));
    };
    auto meanwhile = [&] { claims.progress(); };
    RowStream rows(SourceCursor(sources_.files, sources_.pieces));
    ShardSink sink(job_);
    std::deque<uint64_t> claimed;  // whose last batch has not come
    bool more = true;
    uint64_t uncounted = 0;
    while (true) {
      Stopwatch watch;
      if (more && rows.idle()) {
        uint64_t i = claims.next();
        more = i < to_do_.size();
        if (more) {
          claimed.push_back(to_do_[i]);
          rows.request(job_.first_row(to_do_[i]), job_.end_row(to_do_[i]));
        }
      }
      if (claimed.empty()) break;
      RowBatch batch = rows.next();
      times_.wait += watch.seconds();
      SampleBatch samples = encode(batch, claimed.front());
      if (batch.last) claimed.pop_front();
      watch.reset();
      sink.push(std::move(samples), meanwhile);
      times_.wait += watch.seconds();
      claims.progress();
      for (uncounted += batch.lengths.size(); uncounted >= kProgressRows; uncounted -= kProgressRows)
        show(blocks.next() + 1);
    }
    Stopwatch watch;
    std::map<uint64_t, SplitSummaries> mine = sink.finish(meanwhile);
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
    progress.finish(rate(rows_to_do_, since_start.seconds()));
    return mine;
  }

  SampleBatch encode(const RowBatch& rows, uint64_t shard) {
    Stopwatch watch;
    SampleBatch out;
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
      valid_counts_.drops = train_counts_.drops;
      out.train_counts = std::exchange(train_counts_, {});
      out.valid_counts = std::exchange(valid_counts_, {});
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
    if (auto reason = maker_.make(row, index, sample_)) {
      ++train_counts_.drops[static_cast<size_t>(*reason)];
      return;
    }
    bool valid = maker_.for_validation(row);
    ShardCounts& mine = valid ? valid_counts_ : train_counts_;
    ++(valid ? train_counts_ : valid_counts_).other_split;
    if (sample_.truncated) ++mine.truncated;
    out.tokens.insert(out.tokens.end(), sample_.tokens.begin(), sample_.tokens.end());
    out.samples.push_back({index, static_cast<uint32_t>(sample_.tokens.size()), sample_.loss_start, valid});
  }

  // What the ranks share is bounded: a summary has as many lengths as samples differ in.
  Summaries share(std::map<uint64_t, SplitSummaries>& mine) {
    Stopwatch watch;
    json packed = json::array();
    std::vector<uint64_t> train_hashes;
    std::vector<uint64_t> valid_hashes;
    for (auto& [shard, both] : mine) {
      json entry = {shard, pack(both.train)};
      if (job_.valid) entry.push_back(pack(both.valid));
      packed.push_back(std::move(entry));
      train_hashes.insert(train_hashes.end(), both.train.hashes.begin(), both.train.hashes.end());
      valid_hashes.insert(valid_hashes.end(), both.valid.hashes.begin(), both.valid.hashes.end());
      both.train.hashes = {};
    }
    Summaries all;
    all.train.resize(job_.shards());
    all.valid.resize(job_.valid ? job_.shards() : 0);
    for (const std::string& text : process_.all_gather(packed.dump())) {
      for (const json& entry : json::parse(text)) {
        uint64_t shard = entry[0];
        all.train[shard] = unpack(entry[1]);
        if (job_.valid) all.valid[shard] = unpack(entry[2]);
      }
    }
    if (job_.valid) all.overlap = count_overlap(process_, train_hashes, valid_hashes);
    times_.wait += watch.seconds();
    return all;
  }

  std::string rate(uint64_t rows, double seconds) const {
    double per_second = static_cast<double>(rows) / std::max(seconds, 1e-3);
    double row_bytes =
        static_cast<double>(scan_.text_bytes) / static_cast<double>(std::max<uint64_t>(scan_.rows, 1));
    return fmt::format("{} rows/s, {:.1f} MB/s of text", human_count(per_second),
                       per_second * row_bytes / 1e6);
  }

  const Process& process_;
  const Sources& sources_;
  const Scan& scan_;
  const ShardJob& job_;
  StageTimes& times_;
  TimedTokenizer tokenizer_;
  SampleMaker maker_;
  std::chrono::milliseconds slowness_;
  std::vector<uint64_t> to_do_;
  uint64_t rows_to_do_ = 0;
  Sample sample_;
  ShardCounts train_counts_;
  ShardCounts valid_counts_;
};

}  // namespace

Summaries make_shards(const Process& process, const Tokenizer& tokenizer, const PreprocessOptions& options,
                      const Sources& sources, const Scan& scan, const ShardJob& job,
                      const std::vector<uint64_t>& finished, StageTimes& times) {
  return Making(process, tokenizer, options, sources, scan, job, times).run(finished);
}

uint64_t count_overlap(const Process& process, const std::vector<uint64_t>& train,
                       const std::vector<uint64_t>& valid) {
  std::vector<uint64_t> all = process.all_gather(std::span(valid));
  std::unordered_set<uint64_t> wanted(all.begin(), all.end());
  std::vector<uint64_t> here;
  for (uint64_t hash : train)
    if (wanted.erase(hash) > 0) here.push_back(hash);
  here = process.all_gather(std::span<const uint64_t>(here));
  std::unordered_set<uint64_t> found(here.begin(), here.end());
  return static_cast<uint64_t>(
      std::count_if(all.begin(), all.end(), [&](uint64_t hash) { return found.contains(hash); }));
}

}  // namespace llmft
