#include "llmft/base/error.hpp"
#include "llmft/comm/comm.hpp"
#include "llmft/device/device.hpp"

namespace llmft {

std::unique_ptr<Comm> make_comm(const Process& process, Device& device) {
  check(device.kind() == DeviceKind::cpu, "a GPU in a build without CUDA");
  return make_host_comm(process);
}

std::string nccl_version() {
  return "not built in";
}

}  // namespace llmft
