#include "llmft/device/device.hpp"

namespace llmft {

std::vector<GpuInfo> list_gpus() {
  return {};
}
std::string cuda_build_version() {
  return "";
}

}  // namespace llmft
