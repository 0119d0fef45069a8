// One rank, one GPU.
#pragma once

#include <span>
#include <string>

#include "llmft/comm/process.hpp"

namespace llmft {

struct RankGpu {
  std::string host;
  std::string uuid;  // empty: this rank sees no GPU
  int visible = 0;   // GPUs that this rank sees
};

// Why these ranks (in rank order) cannot run on these GPUs, or "": a rank without a GPU, or two with the
// same.
std::string gpu_conflict(std::span<const RankGpu> ranks);

struct GpuChoice {
  int ordinal = -1;      // none
  std::string conflict;  // why the ranks cannot all have their choice, or ""
};
// Collective, as the next.
GpuChoice choose_gpu(const Process& process);

// Collective. The number, among those visible to this process, of this rank's GPU: its place among the ranks
// of its node, whether the launcher shows every rank all GPUs or one each. UserError on a conflict.
int gpu_of_rank(const Process& process);

}  // namespace llmft
