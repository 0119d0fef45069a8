// What the sources are: files, hashes, and how many rows each piece has. The rows of Parquet stand in its
// footers; JSON lines are counted, undecoded, while the file is hashed.
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
  std::vector<SourcePiece> pieces;  // rows of each are known
  std::vector<std::string> hashes;  // of each file
  uint64_t rows = 0;
};

// Collective, same result on every rank. Only rank 0 looks for files and opens their heads, so that what is
// wrong with them is said once. Files are hashed in blocks of 16 MiB, which the ranks share; compressed ones
// are counted as a whole, each by one rank. Holds one block.
Sources share_sources(const Process& process, const std::string& input, StageTimes& times);

}  // namespace llmft
