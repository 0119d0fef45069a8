// How much device memory a run needs, told without the device and without weights: the run's own allocations
// and its rehearsal, on a dry device (device/device.hpp). `llmft plan` prints it, `llmft train` refuses by it
// before anything is loaded.
#pragma once

#include <array>
#include <string>

#include "llmft/comm/process.hpp"
#include "llmft/model/llama_tensors.hpp"
#include "llmft/train/options.hpp"

namespace llmft {

struct PlanTarget {
  DeviceKind kind = DeviceKind::cuda;
  std::string name;    // "NVIDIA H100 80GB HBM3"
  size_t memory = 0;   // bytes that a rank may use, what is held outside its buffers included
  size_t outside = 0;  // of them: CUDA's context, kernels, libraries' own memory
  int ranks = 1;
  int group = 0;  // hsdp: ranks that share a copy of the model
};

// CUDA's context, kernels and libraries, and NCCL's buffers with more than one rank. An estimate; what a run
// really met is in its run.json as device_memory_outside_bytes.
size_t memory_outside(DeviceKind kind, int ranks);

struct MemoryPlan {
  std::array<size_t, kMemoryParts> parts{};  // each at its own highest, as in memory.csv
  size_t peak = 0;                           // the most held at one time
};

// Of rank 0, which holds most. UserError for options that no run could have.
MemoryPlan plan_memory(const TrainOptions& options, const LlamaConfig& config, const AdapterSpec& adapter,
                       const PlanTarget& target);

// The largest train.pack_tokens, a multiple of 256, whose plan fits the target; 0: none does.
int64_t largest_pack_tokens(const TrainOptions& options, const LlamaConfig& config,
                            const AdapterSpec& adapter, const PlanTarget& target);

// UserError when the plan does not fit: what is needed, what there is, the largest micro-batch that would
// fit, other ways out.
void require_fit(const TrainOptions& options, const LlamaConfig& config, const AdapterSpec& adapter,
                 const PlanTarget& target);

// adapter of the options: what a PEFT folder declares, or what is asked for; rank 0: full fine-tuning.
AdapterSpec adapter_of(const TrainOptions& options);

// "80GiB", "80GB", "81559 MiB", bytes alone; UserError naming `option` otherwise.
size_t parse_memory(const std::string& text, const std::string& option);

}  // namespace llmft
