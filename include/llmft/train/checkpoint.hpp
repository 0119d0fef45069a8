// Checkpoints: <run>/checkpoints/step-000100/ with one safetensors file a rank (its pieces of masters and
// AdamW moments, in coordinates that do not depend on the number of ranks) and state.json (position,
// counters, hashes of the files), written last. The folder is made under a temporary name and renamed when
// whole; one that is torn or damaged is named and passed over.
// Ranks write at different times, so a kill can leave a temporary folder; the next save removes it.
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
  int64_t skipped = 0;
  uint64_t epoch = 0;  // next pack to use
  uint64_t pack = 0;
  int64_t samples = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  UpdateState update;  // the optimizer's counters and the loss scale
  int64_t planned_steps = 0;
  double first_loss = 0;
  double last_loss = 0;
  std::optional<double> first_valid;
  std::optional<double> last_valid;
  std::optional<double> best_valid;
  int64_t bad_validations = 0;
  double seconds = 0;  // of training so far
  // Must be equal on resume: a run is continued, not changed.
  std::string layout;    // LlamaTensors::layout_hash
  std::string settings;  // run_settings()
};

// Collective. Then all but the newest `keep` checkpoints are deleted, and those of later steps, which a run
// that went back to an earlier one has left behind.
void save_checkpoint(const std::filesystem::path& run, const TrainState& state, ParamStore& store,
                     AdamW& optimizer, const Process& process, int64_t keep);

// Collective: finds the newest whole checkpoint and loads it, any number of ranks. Nothing if there is none.
// UserError if it belongs to another layout or other settings.
std::optional<TrainState> load_checkpoint(const std::filesystem::path& run, const std::string& layout,
                                          const std::string& settings, ParamStore& store, AdamW& optimizer,
                                          const Process& process);

}  // namespace llmft
