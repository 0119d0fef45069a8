// Who makes which shard. A shard that starts where the rank's last one ended costs nothing to get to; any
// other costs the decoding of pages that it does not use (a dictionary page and parts of two others of each
// column). So every rank has a stretch of its own, and takes from the others' once that is empty.
#pragma once

#include <cstdint>
#include <vector>

#include "llmft/comm/process.hpp"
#include "sources.hpp"

namespace llmft {

class ShardClaims {
 public:
  // Collective. to_do: ascending, the same on every rank.
  ShardClaims(const Process& process, const Sources& sources, uint64_t rows_per_shard,
              const std::vector<uint64_t>& to_do);

  // Shards to make one after another, each given to exactly one rank; empty when none is left. A compressed
  // file can only be read from its start, so shards that begin in one come together, and the longest of such
  // runs first of all.
  std::vector<uint64_t> next();
  // See SharedCounter.
  void progress() { claimed_.progress(); }

 private:
  std::vector<std::vector<uint64_t>> units_;
  // Of units_: those of several shards, which all ranks draw from first, then each rank's own.
  std::vector<size_t> ends_;
  size_t rank_;
  size_t at_ =
      0;  // of the stretches in this rank's order: what all draw from, its own, those of the next ranks
  SharedCounter claimed_;  // of each stretch
};

}  // namespace llmft
