// What a rank holds on its device while it trains, and the rehearsal that makes everything that is made
// lazily (workspaces of libraries, pooled buffers, algorithms' choices). A run and its plan go through the
// same two functions, one on a real device and one on a dry one, so that what is planned is what is held.
#pragma once

#include <memory>

#include "llmft/model/llama.hpp"
#include "llmft/optim/adamw.hpp"
#include "llmft/parallel/strategy.hpp"
#include "llmft/train/memory_plan.hpp"
#include "llmft/train/options.hpp"

namespace llmft {

Reduction reduction_of(const TrainOptions& options);
KernelChoice kernel_choice_of(const TrainOptions& options);
// A GPU's matrix units take K in tiles of 64.
int64_t extension_multiple(DeviceKind kind);

struct RankState {
  std::unique_ptr<ParamStore> store;  // its weights not yet set
  std::unique_ptr<AdamW> optimizer;
  std::unique_ptr<Llama> llama;
  Buffer outcome;  // f64: the loss of each micro-batch, UpdateState
};

// The tensors, recipe, ops and comm must outlive it. group: of hsdp.
RankState make_rank_state(const TrainOptions& options, const LlamaTensors& tensors, const Recipe& recipe,
                          Ops& ops, Comm& comm, int group);

// Collective: the largest micro-batch there can be, forward, backward and as a validation, and the sums of a
// whole step. Changes neither parameters nor the optimizer. Afterwards the device is sealed.
void rehearse(RankState& state, const TrainOptions& options, Device& device, int ranks);

}  // namespace llmft
