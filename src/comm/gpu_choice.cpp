#include "llmft/comm/gpu_choice.hpp"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "llmft/device/device.hpp"

namespace llmft {

std::string gpu_conflict(std::span<const RankGpu> ranks) {
  std::map<std::string, size_t> owner;
  for (size_t r = 0; r < ranks.size(); ++r) {
    const RankGpu& mine = ranks[r];
    if (mine.uuid.empty())
      return fmt::format(
          "rank {} on {} sees no GPU; ask the scheduler for one GPU a rank (--gpus-per-task=1 or "
          "--gpus-per-node), look at CUDA_VISIBLE_DEVICES there, or use --device cpu",
          r, mine.host);
    auto [other, fresh] = owner.emplace(mine.uuid, r);
    if (!fresh)
      return fmt::format(
          "ranks {} and {} on {} would share one GPU ({} visible to rank {}); start at most one rank per GPU "
          "(--ntasks-per-node, mpirun -n), ask for more GPUs, or look at CUDA_VISIBLE_DEVICES",
          other->second, r, mine.host, mine.visible, r);
  }
  return "";
}

GpuChoice choose_gpu(const Process& process) {
  std::vector<GpuInfo> gpus = list_gpus();
  int chosen = gpus.empty() ? -1 : process.local_rank() % static_cast<int>(gpus.size());
  std::string mine = fmt::format("{}\n{}\n{}", process.host(),
                                 chosen < 0 ? "" : gpus[static_cast<size_t>(chosen)].uuid, gpus.size());
  std::vector<RankGpu> ranks;
  bool none = true;
  for (const std::string& text : process.all_gather(mine)) {
    std::vector<std::string> fields = split(text, '\n');
    ranks.push_back({fields.at(0), fields.at(1), std::atoi(fields.at(2).c_str())});
    none = none && ranks.back().uuid.empty();
  }
  return {chosen, none ? "" : gpu_conflict(ranks)};
}

int gpu_of_rank(const Process& process) {
  GpuChoice choice = choose_gpu(process);
  if (!choice.conflict.empty()) user_error("--device cuda: {}", choice.conflict);
  return std::max(0, choice.ordinal);  // where there is none at all, the device says why
}

}  // namespace llmft
