// results/benchmarks.csv: a row for each finished run, from all runs that share the folder, maybe at once and
// on several nodes. A row is one write(2) at the end of the file under an advisory lock, so rows stay whole.
// New columns come after those there are: a table of an older version is made the newer one's under that
// lock.
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
  std::string command;    // "train"; "eval" and "eval-base": scores of the run named, and of its base model
  std::string precision;  // "fp32", "bf16", ...
  std::string strategy;   // "none", "ddp", "fsdp"
  std::string mode;       // "lora", "full"
  std::optional<int64_t> adapter_rank;  // 0: full fine-tuning
  std::string model;                    // name of the model folder
  std::string data;                     // name of the shard folder
  int64_t ranks = 1;
  int64_t nodes = 1;
  std::optional<int64_t> pack_tokens;
  std::optional<int64_t> batch_packs;
  std::optional<int64_t> steps;
  std::optional<int64_t> samples;
  std::optional<int64_t> tokens;
  std::optional<int64_t> supervised_tokens;
  std::optional<double> samples_per_s;  // these four: none where no step was timed
  std::optional<double> tokens_per_s;
  std::optional<double> supervised_tokens_per_s;
  std::optional<double> step_time_median_s;
  std::optional<double> epoch_time_s;  // measured or, for a run shorter than an epoch, estimated
  std::optional<double> training_time_s;
  std::optional<uint64_t> peak_memory_bytes;  // of the rank with the largest
  std::optional<double> mfu;
  std::optional<double> loss_first;
  std::optional<double> loss_last;
  std::optional<double> valid_loss;
  std::string config_hash;
  std::string machine;   // "2 x NVIDIA H100 80GB HBM3, 64 CPUs"
  std::string versions;  // "driver 570.124.06, CUDA 13.0, cuBLAS 13.1.0, ..."
  std::optional<double> adapter_alpha;
  std::optional<double> sample_length_mean;  // tokens of a sample of the data
  std::optional<int64_t> max_length;         // that the data was preprocessed for
  std::optional<double> padded_tokens_per_s;
  std::optional<double> joules_per_token;
  std::optional<int64_t> vocab_size;
  std::optional<double> perplexity;  // these three in rows of evaluations
  std::optional<double> bleu;
  std::optional<double> rouge_l;
};

// The header line, without its end.
std::string benchmark_header();
// The row's line, without its end.
std::string to_csv(const BenchmarkRow& row);

// Makes the folder and the file with its header when there is none; gives the rows of an older version's
// table the columns that they lack, empty. UserError, with the file unchanged, when its header is another
// one.
void append_benchmark(const std::filesystem::path& path, const BenchmarkRow& row);

// The same UserError for a table that is there, before the work whose row it is to have.
void check_benchmark_table(const std::filesystem::path& path);

}  // namespace llmft
