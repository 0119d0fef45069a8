// AdamW over this rank's part of the trainable parameters, with clipping by the global gradient norm. Moments
// and masters are f32. Where parameters are replicated each rank repeats the same update; where they are
// sharded each updates its own.
#pragma once

#include <functional>
#include <vector>

#include "llmft/comm/comm.hpp"
#include "llmft/model/param_store.hpp"
#include "llmft/ops/ops.hpp"

namespace llmft {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;  // on matrices, not on norms
};

class AdamW {
 public:
  AdamW(const AdamWOptions& options, Ops& ops, ParamStore& store, Comm& comm);

  // L2 norm over all trainable parameters of all ranks, of the store's gradients as they are (loss scale
  // included). The same bits for any number of ranks and any strategy, given the same gradients. Collective.
  // inf or nan if any is.
  double gradient_norm();
  // One update with gradients multiplied by grad_scale (clip factor / loss scale), then publish().
  void step(double lr, double grad_scale);

  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  // This rank's moments of a block, f32, lengths as the store's local_range.
  Tensor local_m(int block) const { return moments_[static_cast<size_t>(block)].m; }
  Tensor local_v(int block) const { return moments_[static_cast<size_t>(block)].v; }

 private:
  struct Moments {
    Buffer buffer;
    Tensor m;
    Tensor v;
  };
  AdamWOptions options_;
  Ops& ops_;
  ParamStore& store_;
  Comm& comm_;
  std::vector<Moments> moments_;
  int64_t updates_ = 0;
};

// torch.nn.utils.clip_grad_norm_'s factor: min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0 (no
// clipping).
double clip_factor(double norm, double max_norm);

}  // namespace llmft
