// Checkpoints: <run>/checkpoints/step-000100/ with one safetensors file a rank (its pieces of masters and
// AdamW moments, in coordinates that do not depend on the number of ranks) and state.json (position,
// counters, hashes of the files), written last. The folder is made under a temporary name and renamed when
// whole; one that is torn or damaged is named and passed over.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "llmft/comm/process.hpp"
#include "llmft/optim/adamw.hpp"
#include "llmft/precision/recipe.hpp"

namespace llmft {

struct TrainState {
  int64_t step = 0;  // steps done, skipped ones included
  int64_t updates = 0;
  int64_t skipped = 0;
  uint64_t epoch = 0;  // next pack to use
  uint64_t pack = 0;
  int64_t samples = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  LossScaler::State scaler;
  double first_loss = 0;
  double best_valid = 0;
  int64_t bad_validations = 0;
  double seconds = 0;  // of training so far
  // Must be equal on resume: a run is continued, not changed.
  std::string layout;    // LlamaTensors::layout_hash
  std::string settings;  // of what decides the numbers: seed, batch, data fingerprint, schedule, ...
};

// Collective. Then all but the newest `keep` checkpoints are deleted.
void save_checkpoint(const std::filesystem::path& run, const TrainState& state, ParamStore& store,
                     AdamW& optimizer, const Process& process, int64_t keep);

// Collective: finds the newest whole checkpoint and loads it, any number of ranks. Nothing if there is none.
// UserError if it belongs to another layout or other settings.
std::optional<TrainState> load_checkpoint(const std::filesystem::path& run, const std::string& layout,
                                          const std::string& settings, ParamStore& store, AdamW& optimizer,
                                          const Process& process);

}  // namespace llmft
