// The first pass: what the sources are, how many rows they have, which rows are duplicates.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llmft/comm/process.hpp"
#include "llmft/data/source_files.hpp"
#include "stage_times.hpp"

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
Sources share_sources(const Process& process, const std::string& input, StageTimes& times);
// Collective. Fills the rows of every piece.
Scan scan_sources(const Process& process, Sources& sources, StageTimes& times);

}  // namespace llmft
