// The pass over the rows, collective: claims shards, reads, encodes and writes them, each rank in four
// threads: one that reads and decodes, the main thread with template and tokenizer (and all of MPI), one that
// fills HDF5 files, and one that brings them to the disk.
//
// A shard is claimed when the one before it has been read, so a slow rank has no shard in reserve that
// another could do; shards that begin in the same compressed file are claimed together. Test hook:
// LLMFT_TEST_SLOW_RANK=RANK:MILLISECONDS makes a rank sleep after each batch of rows (512 at the most).
#pragma once

#include <cstdint>
#include <vector>

#include "llmft/comm/process.hpp"
#include "llmft/data/pipeline.hpp"
#include "shard_job.hpp"
#include "sources.hpp"
#include "stage_times.hpp"

namespace llmft {

// finished: shards that are there already; one that turns out damaged is made anew. The shards that this rank
// made or looked at. Duplicates of a sample in the same shard are dropped here, others are not.
MadeShards make_shards(const Process& process, const Tokenizer& tokenizer, const PreprocessOptions& options,
                       const Sources& sources, const ShardJob& job, const std::vector<uint64_t>& finished,
                       StageTimes& times);

}  // namespace llmft
