// steps.csv: one row a training step, given whole to the system before the next step begins, so that a killed
// run loses none. Floats have their shortest exact form: runs that are bit for bit equal have equal columns.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace llmft {

struct StepRow {
  int64_t step = 0;  // from 1: the number of optimizer steps tried so far
  double epoch = 0;  // passes over the data so far, fractional
  double loss = 0;   // mean over the step's supervised tokens
  double lr = 0;
  double grad_norm = 0;  // before clipping
  double tokens_per_s = 0;
  double supervised_tokens_per_s = 0;
  int64_t tokens = 0;  // of this step, all ranks
  int64_t supervised_tokens = 0;
  double step_time_s = 0;
  double data_wait_s = 0;  // part of step_time_s spent waiting for data
  double imbalance = 0;    // cost of the packs of the rank with the most to do over the mean, less 1
  std::optional<double> loss_scale;  // fp16 only
  bool skipped = false;              // gradients overflowed: no update
  std::optional<double> mfu;         // 0..1, where the device's peak is known
  std::optional<double> valid_loss;  // where validation ran after this step
};

// Rank 0's. UserError when the file cannot be written or, on resume, is another table.
class StepLog {
 public:
  // last_step: none starts the table anew; a value (a resumed run's checkpoint) keeps rows up to it and cuts
  // off later ones and a torn last line. A missing file is started either way.
  explicit StepLog(const std::filesystem::path& path, std::optional<int64_t> last_step = std::nullopt);
  ~StepLog();
  StepLog(const StepLog&) = delete;
  StepLog& operator=(const StepLog&) = delete;

  void append(const StepRow& row);
  // Loss of the first row, kept or appended: where the whole run started.
  std::optional<double> first_loss() const { return first_loss_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::optional<double> first_loss_;
};

}  // namespace llmft
