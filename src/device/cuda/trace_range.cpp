#include "llmft/device/trace_range.hpp"

#include <cstdlib>

#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

namespace llmft {
namespace {

// How tools that read ranges announce themselves (NVTX's documentation).
bool tool_attached() {
  static const bool attached = std::getenv("NVTX_INJECTION64_PATH") != nullptr;
  return attached;
}

}  // namespace

TraceRange::TraceRange(std::string_view name, int64_t number) : open_(tool_attached() && !name.empty()) {
  if (open_)
    nvtxRangePushA(number < 0 ? std::string(name).c_str() : fmt::format("{} {}", name, number).c_str());
}

TraceRange::~TraceRange() {
  if (open_) nvtxRangePop();
}

}  // namespace llmft
