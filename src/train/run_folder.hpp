// The run directory as a run fills it: config.yaml, run.json, steps.csv, timing.csv, memory.csv, and the
// run's row in results/benchmarks.csv. Rank 0 writes; start() and finish() are collective.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "llmft/comm/process.hpp"
#include "llmft/data/manifest.hpp"
#include "llmft/report/energy.hpp"
#include "llmft/report/run_report.hpp"
#include "llmft/report/step_log.hpp"
#include "llmft/report/tables.hpp"
#include "llmft/train/checkpoint.hpp"
#include "llmft/train/options.hpp"

namespace llmft {

class RunFolder {
 public:
  // UserError when the directory cannot be written or holds a run already (without --resume or --overwrite).
  // Changes nothing in it, and one made here goes again if the run fails before start().
  RunFolder(const Process& process, const TrainOptions& options, const std::string& config_yaml);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  PhaseTimer::Scope phase(std::string_view name) { return timer_.scope(name); }
  void add_phase(std::string_view name, double seconds, int64_t count = 1) {
    timer_.add(name, seconds, count);
  }

  // Removes the run that --overwrite gives up.
  void start(const Device& device);
  // run.json says that the run ended with all its files written.
  bool finished_before() const { return finished_before_; }
  void open_steps(int64_t last_step);
  void count_step(const StepRow& row, int64_t samples);
  // Something else than steps comes next.
  void leave_steps();
  void write_step(const StepRow& row);
  void leave_requeue_mark(int64_t step);
  struct Outcome {
    int64_t adapter_rank;
    double adapter_alpha;
    int64_t vocab_size;
    const Manifest& data;
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
  std::optional<StepEnergy> energy_;
  std::vector<std::string> devices_;  // for machine_text()
  std::vector<double> step_seconds_, tokens_per_s_, supervised_per_s_, mfus_;
  int64_t timed_samples_ = 0, timed_tokens_ = 0;
  int64_t steps_seen_ = 0;
  bool made_ = false;
  bool started_ = false;
  bool finished_before_ = false;
};

}  // namespace llmft
