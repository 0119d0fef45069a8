// What `llmft train` can be told. One struct, described once (config/options.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llmft/config/options.hpp"
#include "llmft/ops/backend.hpp"
#include "llmft/optim/adamw.hpp"
#include "llmft/optim/schedule.hpp"
#include "llmft/parallel/strategy.hpp"
#include "llmft/precision/recipe.hpp"

namespace llmft {

struct TrainOptions {
  std::string model;
  std::string data;
  std::string output;
  std::string results = "results/benchmarks.csv";
  bool resume = false;
  bool overwrite = false;

  DeviceChoice device = DeviceChoice::automatic;
  Precision precision = Precision::bf16;
  Strategy strategy = Strategy::ddp;
  FsdpMode fsdp_mode = FsdpMode::full_shard;
  int64_t hsdp_group = 0;
  bool deterministic = false;
  int64_t threads = 0;

  int64_t adapter_rank = 16;
  double adapter_alpha = 32;
  bool adapter_rslora = false;
  std::vector<std::string> adapter_targets{"q_proj", "v_proj", "o_proj"};
  std::string adapter_init;

  int64_t pack_tokens = 8192;
  int64_t batch_packs = 8;
  int64_t steps = 0;
  double epochs = 1;
  int64_t seed = 0;

  ScheduleKind schedule = ScheduleKind::cosine;
  double lr = 2e-4;
  double min_lr_ratio = 0;
  int64_t warmup_steps = 0;
  double warmup_ratio = 0.03;
  double clip = 1.0;
  AdamWOptions adamw;

  double loss_scale = 65536;
  int64_t loss_scale_interval = 2000;

  int64_t validate_every = 0;
  int64_t validate_packs = 64;
  int64_t patience = 0;

  int64_t checkpoint_every = 500;
  int64_t checkpoint_keep = 3;

  double watchdog = 600;

  int64_t timing_warmup = 3;
  double peak_tflops = 0;
  double peak_tb_s = 0;
  bool profile = false;
  int64_t profile_steps = 10;
  bool measure_only = false;
};

void describe(OptionSet& set, TrainOptions& options);

// Checks what no single option shows (needed paths, ranges that depend on each other); UserError. ranks: of
// the run.
void validate(const TrainOptions& options, int ranks);
// Of these, what a plan needs: a model, a number of ranks that the options fit.
void validate_for_plan(const TrainOptions& options, int ranks);

}  // namespace llmft
