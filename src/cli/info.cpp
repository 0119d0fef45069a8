#include <cstdlib>

#include <sched.h>

#include "llmft/base/text.hpp"
#include "llmft/cli/commands.hpp"
#include "llmft/comm/comm.hpp"
#include "llmft/comm/gpu_choice.hpp"
#include "llmft/config/options.hpp"
#include "llmft/device/device.hpp"
#include "llmft/report/machine.hpp"

namespace llmft {
namespace {

constexpr const char* kHelp = R"(llmft info: what this build has and what every rank sees.

examples:
  llmft info
  srun ./llmft info

)";

// "0-3,8"
std::string core_list() {
  cpu_set_t mask;
  if (::sched_getaffinity(0, sizeof mask, &mask) != 0) return "?";
  std::string text;
  for (int first = 0; first < CPU_SETSIZE; ++first) {
    if (!CPU_ISSET(first, &mask)) continue;
    int last = first;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &mask)) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", first);
    if (last > first) text += fmt::format("-{}", last);
    first = last;
  }
  return text;
}

std::string describe_rank(const Process& process, int gpu) {
  MachineInfo machine = machine_info();
  std::string text = fmt::format(
      "rank {}: host {}, local rank {} of {}, {} of {} cores ({}), {} memory, {}\n", process.rank(),
      machine.host, process.local_rank(), process.local_size(), machine.usable_cores, machine.cores,
      core_list(), human_bytes(static_cast<double>(machine.memory_bytes)), machine.cpu);
  std::vector<GpuInfo> gpus = list_gpus();
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible != nullptr) text += fmt::format("rank {}: CUDA_VISIBLE_DEVICES={}\n", process.rank(), visible);
  for (size_t i = 0; i < gpus.size(); ++i)
    text += fmt::format("rank {}: GPU {} {}, {}, compute capability {}.{}, PCI {}{}\n", process.rank(), i,
                        gpus[i].name, human_bytes(static_cast<double>(gpus[i].memory_bytes)),
                        gpus[i].compute_major, gpus[i].compute_minor, gpus[i].bus_id,
                        static_cast<int>(i) == gpu ? ", this rank's" : "");
  return text;
}

}  // namespace

int run_info(const Process& process, std::span<const std::string> args) {
  OptionSet set;
  set.parse(args);
  if (set.help_requested()) {
    if (process.is_root()) fmt::print("{}", kHelp);
    return kExitOk;
  }
  GpuChoice choice = choose_gpu(process);
  std::vector<std::string> ranks = process.all_gather(describe_rank(process, choice.ordinal));
  if (!process.is_root()) return kExitOk;
  BuildInfo build = build_info();
  std::string cuda = cuda_build_version();
  fmt::print("llmft {}{}, {}, CUDA {}\n", build.version, build.git.empty() ? "" : " (" + build.git + ")",
             build.compiler, cuda.empty() ? "not built in" : cuda);
  for (const auto& [name, version] : library_versions()) fmt::print("  {} {}\n", name, version);
  if (!cuda.empty()) fmt::print("  NCCL {}\n", nccl_version());
  for (const std::string& text : ranks) fmt::print("{}", text);
  if (!choice.conflict.empty()) fmt::print("these ranks cannot train on GPUs: {}\n", choice.conflict);
  return kExitOk;
}

}  // namespace llmft
