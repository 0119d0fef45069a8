// AdamW over this rank's part of the trainable parameters, with clipping by the global gradient norm and, for
// fp16, dynamic loss scaling. Moments and masters are f32. Where parameters are replicated each rank repeats
// the same update; where they are sharded each updates its own. What is decided along the way (norm, clip
// factor, whether the update happens, the next loss scale) is decided on the device, so that on a GPU nothing
// here waits for it.
#pragma once

#include <vector>

#include "llmft/model/param_store.hpp"
#include "llmft/ops/ops.hpp"

namespace llmft {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;  // on matrices, not on norms
};

struct GradientOptions {
  double clip = 0;  // largest L2 norm; 0: no clipping
  bool loss_scaling = false;
  double initial_scale = 65536;
  int64_t growth_interval = 2000;
};

class AdamW {
 public:
  AdamW(const AdamWOptions& options, const GradientOptions& gradients, Ops& ops, ParamStore& store);

  // f64 [1, 1]: what the loss is multiplied by in the next backward pass.
  Tensor loss_scale() const { return state().col_range(0, 1); }

  // Advances the state by the L2 norm over all trainable parameters of all ranks. The same bits for any
  // number of ranks and any strategy, given the same gradients. Collective.
  void judge_gradients();
  // The update, if the state says so, then publish().
  void step(double lr);

  // f64 [1, kUpdateFields] on the device.
  Tensor state() const { return state_.view(DType::f64, 1, kUpdateFields); }
  // Waits for the device.
  UpdateState read_state() const;
  void write_state(const UpdateState& state);

  // L2 norm over all trainable parameters of all ranks. Collective; waits for the device.
  double parameter_norm();

  // This rank's moments of a block, f32, lengths as the store's local_range.
  Tensor local_m(int block) const { return moments_[static_cast<size_t>(block)].m; }
  Tensor local_v(int block) const { return moments_[static_cast<size_t>(block)].v; }

 private:
  struct Moments {
    Buffer buffer;
    Tensor m;
    Tensor v;
  };
  Tensor chunk_sums() const;
  // Leaves in chunk_sums() the sums of squares of all ranks' shards of this part.
  void sum_squares_of(Tensor (ParamStore::*part)(int block));

  AdamWOptions options_;
  UpdateRule rule_;
  Ops& ops_;
  ParamStore& store_;
  std::vector<Moments> moments_;
  std::vector<int64_t> first_chunk_;  // of each block among all chunks
  Buffer sums_;                       // f64, one of each chunk
  Buffer state_;
};

}  // namespace llmft
