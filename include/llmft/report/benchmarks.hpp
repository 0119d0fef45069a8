// results/benchmarks.csv: a row for each finished run, from all runs that share the folder, maybe at once and
// on several nodes. A row is one write(2) at the end of the file under an advisory lock, so rows stay whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace llmft {

struct BenchmarkRow {
  std::string time_utc;
  std::string run;  // name of the run directory
  std::string host;
  std::string device;
  std::string version;
  std::string command;    // "train", "preprocess"
  std::string precision;  // "fp32", "bf16", ...
  std::string strategy;   // "none", "ddp", "fsdp"
  std::string mode;       // "lora", "full"
  int64_t adapter_rank = 0;
  std::string model;  // name of the model folder
  std::string data;   // name of the shard folder
  int64_t ranks = 1;
  int64_t nodes = 1;
  int64_t pack_tokens = 0;
  int64_t batch_packs = 0;
  int64_t steps = 0;
  int64_t samples = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  std::optional<double> samples_per_s;  // these four: none where no step was timed
  std::optional<double> tokens_per_s;
  std::optional<double> supervised_tokens_per_s;
  std::optional<double> step_time_median_s;
  std::optional<double> epoch_time_s;  // measured or, for a run shorter than an epoch, estimated
  double training_time_s = 0;
  uint64_t peak_memory_bytes = 0;  // of the rank with the largest
  std::optional<double> mfu;
  std::optional<double> loss_first;
  std::optional<double> loss_last;
  std::optional<double> valid_loss;
  std::string config_hash;
};

// The header line, without its end.
std::string benchmark_header();
// The row's line, without its end.
std::string to_csv(const BenchmarkRow& row);

// Makes the folder and the file with its header when there is none. UserError, with the file unchanged, when
// its header is another one.
void append_benchmark(const std::filesystem::path& path, const BenchmarkRow& row);

}  // namespace llmft
