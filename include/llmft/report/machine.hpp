// What a run was built with and ran on, for run.json and `llmft info`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace llmft {

struct MachineInfo {
  std::string host;
  std::string cpu;    // "AMD EPYC 7543 32-Core Processor"; the architecture where the kernel names no model
  int64_t cores = 0;  // logical, of the machine
  int64_t usable_cores = 0;  // those this process may run on (affinity mask)
  uint64_t memory_bytes = 0;
};
MachineInfo machine_info();

struct BuildInfo {
  std::string version;   // of llmft
  std::string compiler;  // "GCC 12.2.0"
  std::string cuda;      // left empty: the caller has cuda_build_version() (device/)
  std::string git;       // empty when built outside a checkout
};
BuildInfo build_info();

// (name, version) of the libraries in this process, in a fixed order: what runs, not what was compiled
// against. One that is not loaded is left out.
std::vector<std::pair<std::string, std::string>> library_versions();

}  // namespace llmft
