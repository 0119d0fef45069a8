// Where a rank's time went, and the table of it that ends the phase.
#pragma once

#include <cstdint>

#include "llmft/comm/process.hpp"

namespace llmft {

// Seconds of wall-clock time. decode, write and sync run in threads beside template and tokenize, so that
// the sum may be more than the wall time. Waiting of those threads is not counted; wait is what the rank's
// main thread waited for them or for other ranks.
struct StageTimes {
  double read = 0;           // hashing the input files, which brings them to memory, and counting lines
  double decode = 0;         // input format to text
  double chat_template = 0;  // checks, template, all but the tokenizer
  double tokenize = 0;
  double write = 0;  // HDF5, up to the system's cache
  double sync = 0;   // fsync, rename, hash of the file
  double duplicates = 0;
  double wait = 0;
  double wall = 0;
  double cpu = 0;  // of all the rank's threads
  double rows = 0;
  double text_bytes = 0;
  double peak_bytes = 0;  // most memory that the process held
};

// cpu and peak_bytes of this process so far.
void measure_process(StageTimes& times);

// Collective; printed on rank 0: a line a rank (the first 64) and their sum.
void print_stage_times(const Process& process, const StageTimes& mine);

}  // namespace llmft
