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

// What speed depends on, in a line for tables: "driver 570.124.06, CUDA 13.0, cuBLAS 13.1.0, cuDNN 9.13.0,
// NCCL 2.27.7, MPI Open MPI v4.1.4". The caller has the first two names of the build (device/, comm/); empty:
// without.
std::string versions_text(const std::string& cuda, const std::string& nccl);
// The machine of a run in a line: "2 x NVIDIA H100 80GB HBM3, 64 CPUs"; "..., 2 nodes of 64 CPUs". devices: a
// name for each GPU, or for each node where its CPUs are the device.
std::string machine_text(const std::vector<std::string>& devices, int64_t nodes, int64_t cpus_of_node);

}  // namespace llmft
