#include <cstdio>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "llmft/cli/commands.hpp"
#include "llmft/model/llama.hpp"
#include "llmft/report/device_peaks.hpp"
#include "llmft/train/memory_plan.hpp"

namespace llmft {
namespace {

constexpr const char* kHelp =
    R"(llmft plan: how much GPU memory a training run takes, by part, and the largest micro-batch that fits.

Takes the options of 'llmft train'. Needs no GPU and no weights: config.json of the model folder is enough. A GPU that is
there is planned for, else an H100 of 80 GB, or --memory. --format csv prints part,bytes as memory.csv has them.

examples:
  llmft plan --config inputs/llama32_1b.yaml
  llmft plan --model models/Llama-3.2-1B --adapter-rank 0 --precision bf16 --pack-tokens 16384
  llmft plan --config inputs/llama32_1b.yaml --gpus 4 --strategy fsdp --memory 40GiB

options:
)";

enum class Form { text, csv };
constexpr std::pair<const char*, Form> kFormNames[] = {{"text", Form::text}, {"csv", Form::csv}};

struct PlanOptions {
  int64_t gpus = 1;
  std::string memory;
  Form form = Form::text;
};

void describe(OptionSet& set, PlanOptions& o) {
  set.add("gpus", o.gpus, "ranks, one GPU each", {.flag = "--gpus", .min = 1, .max = 1 << 20});
  set.add("memory", o.memory, "memory of one GPU: 80GiB, 141GB; empty: of the GPU here, or an H100's",
          {.flag = "--memory", .value_name = "SIZE"});
  set.add_enum<Form>("format", o.form, kFormNames, "how to print", {.flag = "--format"});
}

PlanTarget target_of(const TrainOptions& train, const PlanOptions& o) {
  PlanTarget target;
  target.ranks = static_cast<int>(o.gpus);
  if (train.device == DeviceChoice::cpu) {
    auto cpu = make_cpu_device();
    target.kind = DeviceKind::cpu;
    target.name = cpu->name();
    target.memory = cpu->total_memory() / static_cast<size_t>(o.gpus);
  } else if (std::vector<GpuInfo> gpus = list_gpus(); !gpus.empty()) {
    target.name = gpus[0].name;
    target.memory = gpus[0].memory_bytes;
  } else {
    target.name = kDefaultGpu;
    target.memory = find_device_peaks(kDefaultGpu)->memory_bytes;
  }
  if (!o.memory.empty()) {
    target.memory = parse_memory(o.memory, "--memory");
    if (target.kind == DeviceKind::cuda) target.name = "a GPU of " + o.memory;
  }
  if (train.strategy == Strategy::hsdp) {
    if (train.hsdp_group <= 0 || o.gpus % train.hsdp_group != 0)
      user_error(
          "--strategy hsdp: a plan needs --hsdp-group, GPUs that share one copy (those of a node), and it "
          "must divide --gpus {}",
          o.gpus);
    target.group = static_cast<int>(train.hsdp_group);
  }
  target.outside = memory_outside(target.kind, target.ranks);
  return target;
}

void print_csv(const MemoryPlan& plan, const PlanTarget& target, int64_t largest) {
  fmt::print("part,bytes\n");
  for (int p = 0; p < kMemoryParts; ++p)
    fmt::print("{},{}\n", name_of(static_cast<MemoryPart>(p)), plan.parts[static_cast<size_t>(p)]);
  fmt::print("peak,{}\noutside,{}\ndevice,{}\nlargest_pack_tokens,{}\n", plan.peak, target.outside,
             target.memory, largest);
}

void print_text(const TrainOptions& o, const LlamaConfig& config, const LlamaTensors& tensors,
                const MemoryPlan& plan, const PlanTarget& target, int64_t largest) {
  auto gib = [](size_t bytes) { return static_cast<double>(bytes) / 0x1p30; };
  fmt::print("{} parameters, {} trained ({}), {}, {} on {} rank{}, {} x {} tokens a step\n\n",
             human_count(static_cast<double>(config.parameter_count())),
             human_count(static_cast<double>(tensors.trainable_count())),
             tensors.full_fine_tuning() ? std::string("all weights")
                                        : fmt::format("LoRA r = {}", tensors.adapter().rank),
             name_of(o.precision), name_of(o.strategy), target.ranks, target.ranks == 1 ? "" : "s",
             o.batch_packs, o.pack_tokens);
  fmt::print("{:<12} {:>10}\n", "a rank", "GiB");
  for (int p = 0; p < kMemoryParts; ++p)
    if (size_t bytes = plan.parts[static_cast<size_t>(p)]; bytes != 0)
      fmt::print("{:<12} {:>10.3f}\n", name_of(static_cast<MemoryPart>(p)), gib(bytes));
  fmt::print("{:<12} {:>10.3f}\n", "peak", gib(plan.peak));
  if (target.outside != 0)
    fmt::print("{:<12} {:>10.3f}  estimated: CUDA context, kernels{}\n", "outside", gib(target.outside),
               target.ranks > 1 ? ", NCCL" : "");
  bool fits = plan.peak + target.outside <= target.memory;
  fmt::print("{:<12} {:>10.3f}  {}\n\n{}\n", "there is", gib(target.memory), target.name,
             fits ? "fits" : "DOES NOT FIT");
  if (largest > 0)
    fmt::print("largest --pack-tokens that fits: {}\n", largest);
  else
    fmt::print("no --pack-tokens fits: use --strategy fsdp on more GPUs, LoRA, or 16 bits\n");
}

}  // namespace

int run_plan(std::span<const std::string> args) {
  TrainOptions train;
  PlanOptions plan_options;
  OptionSet set;
  describe(set, train);
  describe(set, plan_options);
  set.parse(args);
  if (set.help_requested()) {
    fmt::print("{}{}", kHelp, set.help_text());
    return kExitOk;
  }
  PlanTarget target = target_of(train, plan_options);
  validate_for_plan(train, target.ranks);
  LlamaConfig config = load_llama_config(train.model);
  LlamaTensors tensors(config, adapter_of(train), 1);
  MemoryPlan plan = plan_memory(train, config, tensors.adapter(), target);
  int64_t largest = largest_pack_tokens(train, config, tensors.adapter(), target);
  if (plan_options.form == Form::csv)
    print_csv(plan, target, largest);
  else
    print_text(train, config, tensors, plan, target, largest);
  return kExitOk;
}

}  // namespace llmft
