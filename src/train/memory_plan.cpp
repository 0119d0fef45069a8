#include "llmft/train/memory_plan.hpp"

#include <algorithm>
#include <cmath>

#include "llmft/base/text.hpp"
#include "llmft/ops/dry_ops.hpp"
#include "rank_state.hpp"

namespace llmft {
namespace {

constexpr int64_t kPackUnit = 256;
constexpr int64_t kMostPackTokens = int64_t{1} << 24;  // the option's maximum

MemoryPlan with_pack_tokens(TrainOptions options, int64_t tokens, const LlamaConfig& config,
                            const AdapterSpec& adapter, const PlanTarget& target) {
  options.pack_tokens = tokens;
  return plan_memory(options, config, adapter, target);
}

std::string gib(size_t bytes) {
  return human_bytes(static_cast<double>(bytes));
}

}  // namespace

size_t memory_outside(DeviceKind kind, int ranks) {
  if (kind == DeviceKind::cpu) return 0;
  constexpr size_t kMib = size_t{1} << 20;
  return 768 * kMib + (ranks > 1 ? 512 * kMib : 0);
}

MemoryPlan plan_memory(const TrainOptions& o, const LlamaConfig& config, const AdapterSpec& adapter,
                       const PlanTarget& target) {
  auto device = make_dry_device(target.kind, target.name, target.memory);
  Recipe recipe = make_recipe(o.precision);
  auto ops = make_dry_ops(*device, recipe.matmul);
  auto comm = make_dry_comm(
      0, target.ranks,
      target.group > 0 ? std::vector<int>{target.group, target.ranks / target.group} : std::vector<int>());
  LlamaTensors tensors(config, adapter, extension_multiple(target.kind));
  RankState state = make_rank_state(o, tensors, recipe, *ops, *comm, target.group);
  rehearse(state, o, *device, target.ranks);
  MemoryPlan plan;
  for (int p = 0; p < kMemoryParts; ++p)
    plan.parts[static_cast<size_t>(p)] = device->peak_bytes(static_cast<MemoryPart>(p));
  plan.peak = device->peak_bytes();
  return plan;
}

// Memory grows with tokens, nearly in a straight line: a guess by the line through two sizes, then halving
// between what fits and what does not.
int64_t largest_pack_tokens(const TrainOptions& o, const LlamaConfig& config, const AdapterSpec& adapter,
                            const PlanTarget& target) {
  if (target.outside >= target.memory) return 0;
  auto room = static_cast<double>(target.memory - target.outside);
  auto needed = [&](int64_t units) {
    return static_cast<double>(with_pack_tokens(o, units * kPackUnit, config, adapter, target).peak);
  };
  double smallest = needed(1);
  if (smallest > room) return 0;
  constexpr int64_t kProbe = 16;
  double slope = (needed(kProbe) - smallest) / (kProbe - 1);
  int64_t most = kMostPackTokens / kPackUnit;
  auto guess = [&](double share) {
    return static_cast<int64_t>(
        std::clamp(1 + share * (room - smallest) / slope, 1.0, static_cast<double>(most)));
  };
  int64_t fits = 1, fails = most + 1;
  for (double share : {1.0, 0.98, 1.02, 0.9, 1.1}) {
    int64_t units = guess(share);
    if (units <= fits || units >= fails) continue;
    (needed(units) <= room ? fits : fails) = units;
  }
  while (fails - fits > 1) {
    int64_t middle = fits + (fails - fits) / 2;
    (needed(middle) <= room ? fits : fails) = middle;
  }
  return fits * kPackUnit;
}

void require_fit(const TrainOptions& o, const LlamaConfig& config, const AdapterSpec& adapter,
                 const PlanTarget& target) {
  MemoryPlan plan = plan_memory(o, config, adapter, target);
  if (plan.peak + target.outside <= target.memory) return;
  int64_t largest = largest_pack_tokens(o, config, adapter, target);
  std::vector<std::string> ways;
  if (largest > 0)
    ways.push_back(
        fmt::format("use --pack-tokens {}, the largest that fits (and --batch-packs {} for as many "
                    "tokens a step)",
                    largest,
                    (o.pack_tokens * o.batch_packs + largest * target.ranks - 1) / (largest * target.ranks) *
                        target.ranks));
  if (o.strategy != Strategy::fsdp && o.strategy != Strategy::hsdp)
    ways.emplace_back(target.ranks > 1 ? "--strategy fsdp" : "--strategy fsdp on more GPUs");
  else
    ways.emplace_back("more ranks");
  if (adapter.rank == 0) ways.emplace_back("LoRA (--adapter-rank 16)");
  if (make_recipe(o.precision).compute == DType::f32) ways.emplace_back("--precision bf16");
  std::string largest_parts;
  for (MemoryPart part : {MemoryPart::weights, MemoryPart::activations, MemoryPart::optimizer})
    largest_parts += fmt::format(", {} {}", name_of(part), gib(plan.parts[static_cast<size_t>(part)]));
  user_error("train.pack_tokens: {} tokens a micro-batch need {} of {}{}, and {} has {} for them{}; {}",
             o.pack_tokens, gib(plan.peak), target.kind == DeviceKind::cpu ? "memory" : "GPU memory",
             " (" + largest_parts.substr(2) + ")", target.name,
             gib(target.memory - std::min(target.memory, target.outside)),
             largest == 0 ? fmt::format(", too little even for {} tokens", kPackUnit) : "",
             join(ways, ", or "));
}

size_t parse_memory(const std::string& text, const std::string& option) {
  struct Unit {
    const char* name;
    double bytes;
  };
  constexpr Unit kUnits[] = {{"GiB", 0x1p30}, {"MiB", 0x1p20}, {"GB", 1e9}, {"MB", 1e6}, {"B", 1}, {"", 1}};
  for (const Unit& unit : kUnits) {
    if (!text.ends_with(unit.name)) continue;
    std::string_view digits =
        trim(std::string_view(text).substr(0, text.size() - std::string_view(unit.name).size()));
    auto value = parse_double(digits);
    if (!value) continue;
    if (!std::isfinite(*value) || *value * unit.bytes < 1 || *value * unit.bytes > 0x1p60) break;
    return static_cast<size_t>(*value * unit.bytes);
  }
  user_error("{}: '{}' is not an amount of memory; write 80GiB, 80GB or 81559MiB", option, text);
}

}  // namespace llmft
