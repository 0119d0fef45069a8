// The run directory as a run fills it: config.yaml, run.json, steps.csv, timing.csv, memory.csv, and the
// run's row in results/benchmarks.csv. Rank 0 writes; start() and finish() are collective.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "llmft/comm/process.hpp"
#include "llmft/report/run_report.hpp"
#include "llmft/report/step_log.hpp"
#include "llmft/report/tables.hpp"
#include "llmft/train/checkpoint.hpp"
#include "llmft/train/options.hpp"

namespace llmft {

class RunFolder {
 public:
  // UserError when the directory cannot be written or holds a run already (without --resume or --overwrite).
  RunFolder(const Process& process, const TrainOptions& options, const std::string& config_yaml);

  PhaseTimer::Scope phase(std::string_view name) { return timer_.scope(name); }
  void add_phase(std::string_view name, double seconds) { timer_.add(name, seconds); }

  void start(const Device& device);
  void open_steps(int64_t last_step);
  void count_step(const StepRow& row, int64_t samples);
  void note_validation(double loss);
  void write_step(const StepRow& row);
  void leave_requeue_mark(int64_t step);
  struct Outcome {
    int64_t planned_steps;
    double tokens_per_epoch;
    bool early_stopped;
  };
  void finish(const TrainState& state, const Device& device, const Outcome& outcome);

 private:
  std::filesystem::path path(const char* name) const { return std::filesystem::path(o_.output) / name; }

  const Process& process_;
  const TrainOptions& o_;
  std::string config_yaml_;
  PhaseTimer timer_;
  RunReport report_;
  std::optional<StepLog> steps_;
  std::vector<double> step_seconds_, tokens_per_s_, supervised_per_s_, samples_per_s_, mfus_;
  int64_t steps_seen_ = 0;
  std::optional<double> first_valid_, last_valid_;
  double last_loss_ = 0;
};

}  // namespace llmft
