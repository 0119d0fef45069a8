// How blocks get their weights and give their gradients, without knowing how many ranks share them. parallel/
// implements it: whole on every rank (DDP, and one rank), or sharded (FSDP).
//
// Order of calls in a step: zero_gradients(); per micro-batch: leases forward, then per block backward
// open_gradients(b), gradient(b, i) written, gradients_ready(b); finally finish_gradients(). Then the
// optimizer works on local_master/local_gradient, and publish() makes the new values the ones that leases
// show.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "llmft/device/device.hpp"
#include "llmft/model/llama_tensors.hpp"
#include "llmft/tensor/tensor.hpp"

namespace llmft {

class ParamStore;

// A block's weights, whole and in the compute dtype, for the life of this object.
// What an opened block's gradients hold. Big ones are best written by the first product itself: clearing them
// beforehand and adding to that costs three times the traffic.
enum class GradientState {
  undefined,  // the first write must set the trained weights' gradients; those of adapters and the space
              // between tensors are zero
  partial,    // sums so far: add
};

class WeightLease {
 public:
  WeightLease(ParamStore& store, int block, Tensor frozen, Tensor trained);
  ~WeightLease();
  WeightLease(const WeightLease&) = delete;
  WeightLease& operator=(const WeightLease&) = delete;

  // [N + e, K + e] as stored; norms [1, C].
  Tensor operator[](Role role) const;

 private:
  ParamStore& store_;
  int block_;
  Tensor frozen_;
  Tensor trained_;
};

struct ShardRange {
  int64_t begin = 0;
  int64_t end = 0;
};

class ParamStore {
 public:
  virtual ~ParamStore() = default;
  virtual const LlamaTensors& tensors() const = 0;
  virtual Device& device() = 0;

  virtual WeightLease acquire(int block) = 0;
  // A hint that acquire(block) comes soon.
  virtual void prefetch(int block) = 0;

  // micro_batches: how many follow in this step, so that the last one's gradients can travel while the
  // backward pass goes on; 0: not known.
  virtual void zero_gradients(int64_t micro_batches = 0) = 0;
  virtual GradientState open_gradients(int block) = 0;
  // f32 [rows, cols] of trainable i of an opened block.
  Tensor gradient(int block, size_t trainable) const;
  virtual void gradients_ready(int block) = 0;
  // What was sent last may still be on its way: local_gradient() waits for what it returns.
  virtual void finish_gradients() = 0;

  // This rank's part of a block's trainable flat array, the same for master, gradient and optimizer moments.
  virtual ShardRange local_range(int block) const = 0;
  virtual Tensor local_master(int block) = 0;
  virtual Tensor local_gradient(int block) = 0;
  // True where every rank holds the whole (and so repeats the same update).
  virtual bool replicated() const = 0;
  // The copy in the compute dtype that goes with local_master, which whoever writes the one writes too; empty
  // where there is none.
  virtual Tensor local_compute(int block) = 0;
  // A hint before publish(): local_master and local_compute of this block are written. Collective.
  virtual void updated(int block) { static_cast<void>(block); }
  // Shows the masters' values in the weights. The second form trusts that local_compute was written with
  // them.
  enum class Stale { compute, adapters_only };
  virtual void publish(Stale stale = Stale::compute) = 0;
  // f64 values, each zero on all but one of the ranks that hold different parts, become their sums over those
  // ranks. Nothing where every rank holds the whole. Collective.
  virtual void sum_over_shards(const Tensor& values) = 0;
  // The part of local_range that this rank writes to a checkpoint: all ranks' are disjoint and cover the
  // block.
  virtual ShardRange written_range(int block) const = 0;

  // Loading. frozen: the block's whole frozen flat array on the host, in the compute dtype; master: the whole
  // trainable one.
  virtual void set_frozen(int block, std::span<const std::byte> frozen) = 0;
  virtual void set_master(int block, std::span<const float> master) = 0;
  // Collective: the whole trainable flat array of a block, on every rank's host.
  virtual std::vector<float> read_master(int block) = 0;

 protected:
  friend class WeightLease;
  virtual void release(int block) = 0;
  // The opened block's gradient flat array.
  virtual Tensor gradient_flat(int block) const = 0;
};

}  // namespace llmft
