// The second pass, collective: claims shards, reads, encodes and writes them, each rank in four threads: one
// that reads and decodes, the main thread with template and tokenizer (and all of MPI), one that fills HDF5
// files, and one that brings them to the disk.
//
// A shard is claimed when the one before it has been read, so a slow rank has no shard in reserve that
// another could do. Test hook: LLMFT_TEST_SLOW_RANK=RANK:MILLISECONDS makes a rank sleep after each batch of
// rows (512 at the most).
#pragma once

#include <cstdint>
#include <vector>

#include "llmft/comm/process.hpp"
#include "llmft/data/pipeline.hpp"
#include "scan.hpp"
#include "shard_job.hpp"
#include "stage_times.hpp"

namespace llmft {

struct Summaries {
  std::vector<ShardSummary> train;  // by shard, without hashes
  std::vector<ShardSummary> valid;
  uint64_t overlap = 0;  // validation samples whose tokens are also those of a training sample
};

// finished: shards that are there already; one that turns out damaged is made anew.
Summaries make_shards(const Process& process, const Tokenizer& tokenizer, const PreprocessOptions& options,
                      const Sources& sources, const Scan& scan, const ShardJob& job,
                      const std::vector<uint64_t>& finished, StageTimes& times);

// Collective: how many of all ranks' valid are among all ranks' train.
uint64_t count_overlap(const Process& process, const std::vector<uint64_t>& train,
                       const std::vector<uint64_t>& valid);

}  // namespace llmft
