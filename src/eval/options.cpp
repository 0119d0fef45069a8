#include "llmft/comm/gpu_choice.hpp"
#include "llmft/eval/evaluation.hpp"

namespace llmft {

std::vector<std::string> precision_choices() {
  std::vector<std::string> names{"auto"};
  for (auto& [name, value] : kPrecisionNames) names.emplace_back(name);
  return names;
}

std::optional<Precision> precision_of(const std::string& name) {
  for (auto& [known, value] : kPrecisionNames)
    if (name == known) return value;
  return std::nullopt;
}

ModelSource model_source(const Process& process, DeviceChoice device, const std::string& precision,
                         int64_t threads) {
  bool cuda = device == DeviceChoice::automatic ? !process.all_agree(cuda_device_count() == 0)
                                                : device == DeviceChoice::cuda;
  ModelSource source{.device = cuda ? DeviceChoice::cuda : DeviceChoice::cpu,
                     .precision = precision_of(precision)};
  if (cuda) source.gpu = gpu_of_rank(process);
  source.threads = static_cast<int>(threads);
  source.ranks_on_node = process.local_size();
  return source;
}

void describe(OptionSet& set, EvalOptions& o) {
  set.add("model", o.model, "model folder in Hugging Face form", {.flag = "--model", .value_name = "DIR"});
  set.add("adapter", o.adapter,
          "PEFT adapter folder to compare with the base model; empty: the base model alone",
          {.flag = "--adapter", .value_name = "DIR"});
  set.add("data", o.data, "shard folder, as <shards>/valid of 'llmft preprocess --validation'",
          {.flag = "--data", .value_name = "DIR"});
  set.add("tokenizer", o.tokenizer, "tokenizer file or folder; empty: the model's",
          {.flag = "--tokenizer", .value_name = "PATH"});
  set.add("output", o.output, "folder to make: tables, answers, run.json",
          {.flag = "--output", .value_name = "DIR"});
  set.add("results", o.results, "table of runs to add the scores to, as results/benchmarks.csv; empty: none",
          {.flag = "--results", .value_name = "FILE"});
  set.add(
      "run", o.run,
      "name of the run in that table; empty: the folder that holds --adapter, or --model where there is none",
      {.flag = "--run", .value_name = "NAME"});
  set.add("overwrite", o.overwrite, "replace results that are already there", {.flag = "--overwrite"});
  set.add_enum<DeviceChoice>("device", o.device, kDeviceNames, "where to compute", {.flag = "--device"});
  set.add("precision", o.precision, "number formats; auto: bf16 on a GPU, fp32 on a CPU",
          {.flag = "--precision", .choices = precision_choices()});
  set.add("threads", o.threads, "CPU threads a rank; 0: the node's cores shared among its ranks",
          {.min = 0, .max = 1024});
  set.add("eval.samples", o.samples, "samples to write answers for, the first of the data; 0: none, -1: all",
          {.flag = "--samples", .min = -1});
  set.add("eval.perplexity_samples", o.perplexity_samples, "samples that perplexity is taken over; 0: all",
          {.min = 0});
  set.add("eval.pack_tokens", o.pack_tokens, "tokens scored at a time; 0: 8192 on a GPU, 1024 on a CPU",
          {.min = 0, .max = 1 << 20});
  set.add("eval.sequences", o.sequences, "answers written at a time; 0: 64 on a GPU, 8 on a CPU",
          {.flag = "--sequences", .min = 0, .max = 4096});
  set.add("eval.max_tokens", o.max_tokens, "longest answer in tokens",
          {.flag = "--max-tokens", .min = 1, .max = 1e9});
  set.add("eval.temperature", o.temperature, "0: always the likeliest token",
          {.flag = "--temperature", .min = 0, .max = 100});
  set.add("eval.top_k", o.top_k, "draw among the k likeliest tokens; 0: all",
          {.min = 0, .max = std::numeric_limits<int32_t>::max()});
  set.add("eval.top_p", o.top_p, "draw among the likeliest tokens that have this probability together",
          {.min = 0, .max = 1});
  set.add("eval.seed", o.seed, "of sampling and of the resampling for intervals",
          {.flag = "--seed", .min = 0});
  set.add("eval.resamples", o.resamples, "resamples for intervals, trials of the paired test",
          {.min = 10, .max = 1e6});
}

}  // namespace llmft
