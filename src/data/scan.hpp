// The first pass: what the sources are, how many rows they have, which rows are duplicates.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "llmft/comm/process.hpp"
#include "llmft/data/source_files.hpp"

namespace llmft {

struct Sources {
  std::vector<SourceFile> files;
  std::vector<SourcePiece> pieces;
  std::vector<std::string> hashes;  // of each file
};

struct Scan {
  uint64_t rows = 0;
  uint64_t text_bytes = 0;           // of the three fields
  std::vector<uint64_t> duplicates;  // rows whose text stood in an earlier row, ascending
};

// Collective, same result on every rank. Only rank 0 looks for files and opens their heads, so that what is
// wrong with them is said once.
Sources share_sources(const Process& process, const std::string& input);
// Collective. Fills the rows of every piece.
Scan scan_sources(const Process& process, Sources& sources);

// SharedCounter's destructor waits for all ranks, and a rank that is failing must not: the others may never
// get there. Then the counter is left to the end of the process, which the error brings.
struct CounterDeleter {
  int exceptions = std::uncaught_exceptions();
  void operator()(SharedCounter* counter) const {
    if (std::uncaught_exceptions() == exceptions) delete counter;
  }
};
using CounterPtr = std::unique_ptr<SharedCounter, CounterDeleter>;
inline CounterPtr make_counter(const Process& process) {
  return CounterPtr(new SharedCounter(process));
}

}  // namespace llmft
