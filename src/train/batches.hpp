// Which packs make up which step, for all ranks alike, and which rank computes which. Step s of a run takes
// the next `batch_packs` packs of the stream epoch 0, epoch 1, ...; within it they are in the order of their
// cost, the longest first, so that the ranks' packs of one micro-step, which wait for each other, cost nearly
// the same. Micro-step j of rank r is the step's pack j * ranks + r. The next pack is read ahead on a thread.
#pragma once

#include <cstdint>
#include <future>
#include <vector>

#include "llmft/data/loader.hpp"
#include "llmft/model/llama_tensors.hpp"

namespace llmft {

struct PackPosition {
  uint64_t epoch = 0;
  uint64_t index = 0;
};

// Time to compute a pack, in no unit: a T + b sum L^2 + c R.
struct PackCost {
  double token = 1;
  double squared_length = 0;
  double loss_row = 0;
  double of(const PackShape& shape) const {
    return token * static_cast<double>(shape.tokens) + squared_length * shape.sum_squared_lengths +
           loss_row * static_cast<double>(shape.loss_tokens);
  }
};
// From the operations that each adds; those of attention run at about 2/5 of the rate of matrix products.
PackCost pack_cost(const LlamaTensors& tensors);

// by_cost: the order is a function of the packs alone, as a sum that has the same bits for any number of
// ranks needs. balanced: within each micro-step the longest pack goes to the rank that has had the least so
// far.
enum class PackOrder { by_cost, balanced };

// costs of a step's packs, longest first -> which of them is number j * ranks + r. Their number is a multiple
// of ranks.
std::vector<size_t> share_out(std::span<const double> costs, int ranks, PackOrder order);

class Batches {
 public:
  Batches(const Loader& loader, int64_t batch_packs, const PackCost& cost, PackOrder order, int rank,
          int ranks);

  // The packs of a step that begins at `from`; `from` moves on to the next step's.
  std::vector<PackPosition> take(PackPosition& from) const;
  // Supervised tokens of a step, without reading it.
  int64_t loss_tokens(const std::vector<PackPosition>& step) const;
  // How much more the packs of the rank with the most to do cost than the ranks' mean: 0.02 is 2 %.
  double imbalance(const std::vector<PackPosition>& step) const;

  int64_t micro_steps() const { return batch_packs_ / ranks_; }
  // This rank's pack of micro-step j, and the start of reading the one after it.
  Pack pack(const std::vector<PackPosition>& step, int64_t micro_step, const PackPosition& next_step);

 private:
  PackPosition mine(const std::vector<PackPosition>& step, int64_t micro_step) const {
    return step[static_cast<size_t>(micro_step * ranks_ + rank_)];
  }
  double cost_of(const PackPosition& p) const { return cost_.of(loader_.shape(p.epoch, p.index)); }

  const Loader& loader_;
  int64_t batch_packs_;
  PackCost cost_;
  PackOrder order_;
  int rank_;
  int ranks_;
  PackPosition ahead_position_;
  std::future<Pack> ahead_;
};

}  // namespace llmft
