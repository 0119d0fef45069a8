// Which packs make up which step, for all ranks alike. Step s of a run takes the next `batch_packs` packs of
// the stream epoch 0, epoch 1, ...; micro-step j of rank r is pack j * ranks + r of them. The next pack is
// read ahead on a thread.
#pragma once

#include <cstdint>
#include <future>
#include <vector>

#include "llmft/data/loader.hpp"

namespace llmft {

struct PackPosition {
  uint64_t epoch = 0;
  uint64_t index = 0;
};

class Batches {
 public:
  Batches(const Loader& loader, int64_t batch_packs, int rank, int ranks);

  // The packs of a step that begins at `from`; `from` moves on to the next step's.
  std::vector<PackPosition> take(PackPosition& from) const;
  // Supervised tokens of a step, without reading it.
  int64_t loss_tokens(const std::vector<PackPosition>& step) const;

  int64_t micro_steps() const { return batch_packs_ / ranks_; }
  // This rank's pack of micro-step j, and the start of reading the one after it.
  Pack pack(const std::vector<PackPosition>& step, int64_t micro_step, const PackPosition& next_step);

 private:
  PackPosition mine(const std::vector<PackPosition>& step, int64_t micro_step) const {
    return step[static_cast<size_t>(micro_step * ranks_ + rank_)];
  }

  const Loader& loader_;
  int64_t batch_packs_;
  int rank_;
  int ranks_;
  PackPosition ahead_position_;
  std::future<Pack> ahead_;
};

}  // namespace llmft
