// Samples packed into sequences for training. Which samples go into which pack of an epoch, and in which
// order, is a pure function of (shards, seed, epoch, pack_tokens): it does not know how many ranks there are.
// So the position in the data is (epoch, index), and any rank may ask for any pack.
//
// Shuffled: samples in the order of a seeded permutation are cut into windows of about kWindowPacks packs'
// worth of tokens; within a window they are packed best-fit, longest first, and the window's packs are
// shuffled again, since that leaves them ordered by length. Sequential: packs are filled in source order.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "llmft/data/shard_set.hpp"

namespace llmft {

// One packed sequence of T tokens: whole samples one after another, no padding.
struct Pack {
  std::vector<int32_t> tokens;      // [T], T <= pack_tokens
  std::vector<int32_t> positions;   // [T], from 0 in every sample
  std::vector<int32_t> cu_seqlens;  // [samples+1]
  // A row t is scored when its output predicts tokens[t+1], a supervised token of the same sample: a sample
  // of n tokens with loss_start s that begins at b gives the rows b+s-1 .. b+n-2.
  std::vector<int32_t> loss_rows;  // [R], ascending
  std::vector<int32_t> targets;    // [R], tokens[loss_rows[i] + 1]
  std::vector<uint64_t> rows;      // [samples], source rows
};

// What a pack will cost to compute, known without reading it.
struct PackShape {
  int64_t tokens = 0;
  int64_t loss_tokens = 0;
  double sum_squared_lengths = 0;  // of its samples
};

enum class LoadOrder { shuffled, sequential };

struct LoaderOptions {
  int64_t pack_tokens = 4096;
  uint64_t seed = 0;
  LoadOrder order = LoadOrder::shuffled;
};

// Thread safety: const functions may be called from several threads at once.
class Loader {
 public:
  // Samples longer than pack_tokens are left out, with one log line. UserError when none is left.
  // shards must outlive the loader.
  Loader(const ShardSet& shards, LoaderOptions options);
  ~Loader();

  uint64_t packs_in_epoch(uint64_t epoch) const;
  // index < packs_in_epoch(epoch).
  Pack pack(uint64_t epoch, uint64_t index) const;
  // Supervised tokens of a pack, without reading it: the global count of a step costs nothing.
  uint64_t loss_tokens(uint64_t epoch, uint64_t index) const;

  PackShape shape(uint64_t epoch, uint64_t index) const;

  uint64_t samples() const { return usable_.size(); }  // per epoch
  uint64_t too_long() const { return too_long_; }
  uint64_t tokens_in_epoch() const { return tokens_; }
  uint64_t loss_tokens_in_epoch() const { return loss_tokens_; }

 private:
  struct Plan {
    uint64_t epoch;
    std::vector<uint32_t> samples;  // in pack order
    std::vector<uint32_t> starts;   // of each pack in samples, and the total
  };
  std::shared_ptr<const Plan> plan_of(uint64_t epoch) const;
  Plan make_plan(uint64_t epoch) const;

  const ShardSet& shards_;
  LoaderOptions options_;
  std::vector<uint32_t> usable_;  // samples that fit
  uint64_t too_long_ = 0;
  uint64_t tokens_ = 0;
  uint64_t loss_tokens_ = 0;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const Plan>> plans_;  // the last two epochs asked for
};

constexpr uint64_t kWindowPacks = 256;

}  // namespace llmft
