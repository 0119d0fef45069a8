#include "llmft/base/text.hpp"
#include "llmft/cli/commands.hpp"
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

std::string describe_rank(const Process& process) {
  MachineInfo machine = machine_info();
  std::string text =
      fmt::format("rank {}: host {}, local rank {} of {}, {} of {} cores, {} memory, {}\n", process.rank(),
                  machine.host, process.local_rank(), process.local_size(), machine.usable_cores,
                  machine.cores, human_bytes(static_cast<double>(machine.memory_bytes)), machine.cpu);
  std::vector<GpuInfo> gpus = list_gpus();
  for (size_t i = 0; i < gpus.size(); ++i)
    text += fmt::format("rank {}: GPU {} {}, {}, compute capability {}.{}\n", process.rank(), i, gpus[i].name,
                        human_bytes(static_cast<double>(gpus[i].memory_bytes)), gpus[i].compute_major,
                        gpus[i].compute_minor);
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
  std::vector<std::string> ranks = process.all_gather(describe_rank(process));
  if (!process.is_root()) return kExitOk;
  BuildInfo build = build_info();
  std::string cuda = cuda_build_version();
  fmt::print("llmft {}{}, {}, CUDA {}\n", build.version, build.git.empty() ? "" : " (" + build.git + ")",
             build.compiler, cuda.empty() ? "not built in" : cuda);
  for (const auto& [name, version] : library_versions()) fmt::print("  {} {}\n", name, version);
  for (const std::string& text : ranks) fmt::print("{}", text);
  return kExitOk;
}

}  // namespace llmft
