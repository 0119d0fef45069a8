// What a device can do at most, from its maker's data sheets, for MFU and shares of a roofline. Dense rates:
// without structured sparsity.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace llmft {

struct DevicePeaks {
  double f16_tflops;   // bf16 and fp16 products, f32 sums
  double tf32_tflops;  // TFLOP/s
  double f32_tflops;
  double f8_tflops;
  double memory_tb_s;   // 1e12 bytes a second
  size_t memory_bytes;  // that programs see

  // By a precision's name: fp32, tf32, fp16, bf16, fp8.
  double tflops(const std::string& precision) const;
};

// By the name that the driver gives, "NVIDIA H100 80GB HBM3"; none: not in the table.
std::optional<DevicePeaks> find_device_peaks(const std::string& device_name);

// What plans are for when nothing is said.
inline constexpr const char* kDefaultGpu = "NVIDIA H100 80GB HBM3";

}  // namespace llmft
