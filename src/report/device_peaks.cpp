#include "llmft/report/device_peaks.hpp"

#include <string_view>

namespace llmft {
namespace {

constexpr size_t gib(double x) {
  return static_cast<size_t>(x * 0x1p30);
}

struct Row {
  std::string_view part_of_name;
  DevicePeaks peaks;
};

// The first row whose text is in the name counts: special forms before plain ones. NVIDIA's data sheets, the
// sparse figures halved; memory as cudaMemGetInfo reports it, or 1 % under the nominal size.
constexpr Row kTable[] = {
    {"H100 PCIe", {756, 378, 51, 1513, 2.04, gib(79.1)}},
    {"H100 NVL", {835, 417, 60, 1671, 3.9, gib(93.1)}},
    {"H100", {989.4, 494.7, 66.9, 1978.9, 3.35, gib(79.1)}},
    {"H200 NVL", {835, 417, 60, 1671, 4.8, gib(139.7)}},
    {"H200", {989.4, 494.7, 66.9, 1978.9, 4.8, gib(139.7)}},
    {"GH200 480GB", {989.4, 494.7, 66.9, 1978.9, 4.0, gib(94.5)}},
    {"GH200", {989.4, 494.7, 66.9, 1978.9, 4.9, gib(139)}},
    {"H800", {989.4, 494.7, 66.9, 1978.9, 3.35, gib(79.1)}},
    {"H20", {148, 74, 44, 296, 4.0, gib(95)}},
    {"GB200", {2500, 1250, 80, 5000, 8.0, gib(184)}},
    {"B200", {2250, 1125, 75, 4500, 7.7, gib(178)}},
};

}  // namespace

double DevicePeaks::tflops(const std::string& precision) const {
  if (precision == "fp32") return f32_tflops;
  if (precision == "tf32") return tf32_tflops;
  return precision == "fp8" ? f8_tflops : f16_tflops;
}

std::optional<DevicePeaks> find_device_peaks(const std::string& name) {
  if (name.find("NVIDIA") == std::string::npos) return std::nullopt;
  // "GH200" has "H200" in it, "H20" is the beginning of "H200"
  for (const Row& row : kTable) {
    size_t at = name.find(row.part_of_name);
    if (at == std::string::npos) continue;
    bool whole = (at == 0 || name[at - 1] == ' ') &&
                 (at + row.part_of_name.size() == name.size() || name[at + row.part_of_name.size()] == ' ');
    if (whole) return row.peaks;
  }
  return std::nullopt;
}

}  // namespace llmft
