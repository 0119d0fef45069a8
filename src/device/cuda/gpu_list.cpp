#include <cuda_runtime_api.h>

#include "llmft/device/device.hpp"

namespace llmft {

std::vector<GpuInfo> list_gpus() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<GpuInfo> gpus;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    std::string uuid;
    for (char byte : properties.uuid.bytes) uuid += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    std::string bus = fmt::format("{:04x}:{:02x}:{:02x}.0", properties.pciDomainID, properties.pciBusID,
                                  properties.pciDeviceID);
    gpus.push_back(
        {properties.name, properties.totalGlobalMem, properties.major, properties.minor, uuid, bus});
  }
  return gpus;
}

std::string cuda_build_version() {
  return fmt::format("{}.{}", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}

}  // namespace llmft
