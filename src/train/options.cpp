#include "llmft/train/options.hpp"

#include <algorithm>
#include <filesystem>

#include "llmft/base/error.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

bool lies_in(const std::string& path, const std::string& folder) {
  if (path.empty()) return false;
  std::error_code error;
  fs::path inner = fs::weakly_canonical(path, error), outer = fs::weakly_canonical(folder, error);
  return !error && std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

void require_model(const TrainOptions& o) {
  if (o.model.empty())
    user_error(
        "--model: no model folder given; get one with 'hf download meta-llama/Llama-3.2-1B --local-dir "
        "models/Llama-3.2-1B' (after 'hf auth "
        "login' and the access request on its page), or use inputs/tiny/model");
}

void require_whole_batches(const TrainOptions& o, int ranks) {
  if (o.batch_packs % ranks != 0)
    user_error(
        "train.batch_packs: {} micro-batches a step do not divide among {} ranks; use a multiple of {} or "
        "another number of ranks",
        o.batch_packs, ranks, ranks);
}

}  // namespace

void describe(OptionSet& set, TrainOptions& o) {
  set.add("model", o.model, "model folder in Hugging Face form (config.json, model*.safetensors)",
          {.flag = "--model", .value_name = "DIR"});
  set.add("data", o.data, "shard folder made by 'llmft preprocess'; its valid/ is the validation set",
          {.flag = "--data", .value_name = "DIR"});
  set.add("output", o.output, "run directory to make: logs, tables, checkpoints, adapter/ or model/",
          {.flag = "--output", .value_name = "DIR"});
  set.add("results", o.results, "CSV file that gets a row for the finished run; empty: none",
          {.flag = "--results", .value_name = "FILE"});
  set.add("resume", o.resume,
          "go on from the newest good checkpoint in the run directory; start fresh if there is none",
          {.flag = "--resume"});
  set.add("overwrite", o.overwrite, "delete a run that is already in the run directory",
          {.flag = "--overwrite"});

  set.add_enum<DeviceChoice>("device", o.device, kDeviceNames, "where to compute", {.flag = "--device"});
  set.add_enum<Precision>("precision", o.precision, kPrecisionNames, "number formats (docs/numerics.md)",
                          {.flag = "--precision"});
  set.add_enum<Strategy>("strategy", o.strategy, kStrategyNames, "how ranks share the model",
                         {.flag = "--strategy"});
  set.add_enum<FsdpMode>("fsdp_mode", o.fsdp_mode, kFsdpModeNames,
                         "fsdp and hsdp: layers whole only in use, or weights whole and the rest sharded",
                         {.flag = "--fsdp-mode"});
  set.add("hsdp_group", o.hsdp_group, "hsdp: ranks that share one copy of the model; 0: those of a node",
          {.flag = "--hsdp-group", .min = 0});
  set.add("deterministic", o.deterministic,
          "the same bits for any power-of-two number of ranks, ddp, fsdp or hsdp",
          {.flag = "--deterministic"});
  set.add("threads", o.threads, "CPU threads a rank; 0: the node's cores shared among its ranks",
          {.min = 0, .max = 1024});

  set.add("adapter.rank", o.adapter_rank, "LoRA rank r; 0: full fine-tuning",
          {.flag = "--adapter-rank", .min = 0, .max = 1024});
  set.add("adapter.alpha", o.adapter_alpha, "LoRA alpha: the adapter is scaled by alpha / r",
          {.flag = "--adapter-alpha", .min = 0});
  set.add("adapter.rslora", o.adapter_rslora, "scale by alpha / sqrt(r) instead");
  set.add("adapter.targets", o.adapter_targets,
          "linear layers that get an adapter: q, k, v, o, gate, up, down or all-linear");
  set.add("adapter.init", o.adapter_init,
          "start from this PEFT adapter folder (its rank, alpha and targets hold)",
          {.flag = "--adapter", .value_name = "DIR"});

  set.add("train.pack_tokens", o.pack_tokens, "tokens a micro-batch: samples are packed up to this length",
          {.flag = "--pack-tokens", .min = 2, .max = 1 << 24});
  set.add("train.batch_packs", o.batch_packs, "micro-batches a step, over all ranks",
          {.flag = "--batch-packs", .min = 1, .max = 1 << 20});
  set.add("train.steps", o.steps, "optimizer steps; 0: from train.epochs", {.flag = "--steps", .min = 0});
  set.add("train.epochs", o.epochs, "passes over the data, when train.steps is 0",
          {.flag = "--epochs", .min = 0, .max = 1e6});
  set.add("train.seed", o.seed, "of the data order and the adapters' start", {.flag = "--seed", .min = 0});
  set.add_enum<ScheduleKind>("train.schedule", o.schedule, kScheduleNames, "learning rate after warm-up");
  set.add("train.lr", o.lr, "peak learning rate", {.flag = "--lr", .min = 0});
  set.add("train.min_lr_ratio", o.min_lr_ratio, "final learning rate over the peak", {.min = 0, .max = 1});
  set.add("train.warmup_steps", o.warmup_steps, "steps of linear warm-up; 0: from train.warmup_ratio",
          {.min = 0});
  set.add("train.warmup_ratio", o.warmup_ratio, "warm-up as a share of all steps", {.min = 0, .max = 1});
  set.add("train.clip", o.clip, "largest global gradient norm; 0: no clipping", {.min = 0});
  set.add("train.weight_decay", o.adamw.weight_decay, "AdamW's decoupled weight decay, on matrices",
          {.min = 0});
  set.add("train.beta1", o.adamw.beta1, "AdamW", {.min = 0, .max = 1});
  set.add("train.beta2", o.adamw.beta2, "AdamW", {.min = 0, .max = 1});
  set.add("train.eps", o.adamw.eps, "AdamW", {.min = 0});
  set.add("train.loss_scale", o.loss_scale, "fp16: the first loss scale", {.min = 1});
  set.add("train.loss_scale_interval", o.loss_scale_interval, "fp16: good steps before the scale doubles",
          {.min = 1});

  set.add("validation.every", o.validate_every,
          "steps between validation losses; 0: only at the start and the end", {.min = 0});
  set.add("validation.packs", o.validate_packs, "packs of the validation set to use; 0: all", {.min = 0});
  set.add("validation.patience", o.patience,
          "stop after this many validations without a better loss; 0: never", {.min = 0});
  set.add("checkpoint.every", o.checkpoint_every, "steps between checkpoints; 0: only at the end",
          {.flag = "--checkpoint-every", .min = 0});
  set.add("checkpoint.keep", o.checkpoint_keep, "newest checkpoints kept", {.min = 1});
  set.add(
      "watchdog", o.watchdog,
      "seconds without progress after which several ranks are ended and the one at fault is named; 0: never",
      {.flag = "--watchdog", .min = 0});
  set.add("report.timing_warmup", o.timing_warmup, "first steps left out of medians", {.min = 0});
  set.add("report.peak_tflops", o.peak_tflops,
          "peak of one device in this precision, for MFU; 0: by the device's name", {.min = 0});
  set.add("report.peak_tb_s", o.peak_tb_s,
          "peak of one device's memory, 1e12 bytes a second, for --profile; 0: by the device's name",
          {.min = 0});
  set.add("report.profile", o.profile, "print where a step's time goes, and write profile.csv",
          {.flag = "--profile"});
  set.add("report.profile_steps", o.profile_steps, "steps measured for it, after report.timing_warmup",
          {.min = 1});
  set.add("report.measure_only", o.measure_only,
          "write the tables alone: no checkpoints, no adapter or model (for measuring speed and memory)",
          {.flag = "--measure-only"});
}

void validate_for_plan(const TrainOptions& o, int ranks) {
  require_model(o);
  require_whole_batches(o, ranks);
  check_strategy(o.strategy, o.deterministic ? Reduction::tree : Reduction::fast, ranks);
}

void validate(const TrainOptions& o, int ranks) {
  require_model(o);
  if (o.data.empty())
    user_error(
        "--data: no shard folder given; make one with 'llmft preprocess --input FILES --tokenizer "
        "MODEL_FOLDER --output shards/NAME'");
  if (o.output.empty()) user_error("--output: no run directory given; for example --output runs/first");
  for (auto [flag, path] :
       {std::pair("--model", o.model), std::pair("--data", o.data), std::pair("--adapter", o.adapter_init)})
    if (lies_in(path, o.output))
      user_error("{}: {} lies in the run directory {}, which the run writes to; give another --output", flag,
                 path, o.output);
  require_whole_batches(o, ranks);
  if (o.adamw.beta1 >= 1 || o.adamw.beta2 >= 1)
    user_error("train.beta1, train.beta2: {} and {}; both must be less than 1", o.adamw.beta1, o.adamw.beta2);
  if (o.resume && o.overwrite)
    user_error(
        "--resume, --overwrite: one goes on with the run in --output, the other deletes it; give one of "
        "them");
  if (o.steps == 0 && o.epochs <= 0)
    user_error("train.steps: 0 and train.epochs 0; one of them must be positive");
}

}  // namespace llmft
