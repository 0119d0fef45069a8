// --profile: the ledger of a few steps after the warm-up. It puts itself around the ops and the comm that a
// run uses, and measures from start_step() of the first step to the end of the last.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "llmft/comm/comm.hpp"
#include "llmft/device/profile.hpp"
#include "llmft/model/llama_tensors.hpp"
#include "llmft/ops/profiled_ops.hpp"
#include "llmft/report/ledger.hpp"
#include "llmft/train/options.hpp"

namespace llmft {

// Of the device for this precision: what the options say, else by the device's name; none where unknown.
std::optional<LedgerPeaks> peaks_of(const TrainOptions& options, const Device& device);

class StepProfile {
 public:
  StepProfile(const TrainOptions& options, const LlamaTensors& tensors, Device& device,
              std::unique_ptr<Ops>& ops, std::unique_ptr<Comm>& comm);

  // started: steps begun since the run (or its resumption) began.
  void step_begins(int64_t started);
  void batch_begins(double tokens, double sum_len_squared);
  // next_is_step: no validation or checkpoint comes between this step and the next.
  void step_ends(bool next_is_step);

  // The run is over or its measured steps are done: prints the ledger and writes profile.csv, once.
  void report(const std::filesystem::path& run, bool is_root);

 private:
  void stop();

  const TrainOptions& o_;
  Device& device_;
  Profile profile_;
  ProfiledOps* ops_;
  int64_t measured_ = 0;
  bool reported_ = false;
};

}  // namespace llmft
