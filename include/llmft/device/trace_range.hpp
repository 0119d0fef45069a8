// A named stretch of host time in Nsight's timeline (NVTX). Costs a comparison when no tool is attached, and
// nothing in a build without CUDA.
#pragma once

#include <cstdint>
#include <string_view>

namespace llmft {

class TraceRange {
 public:
  // Empty name: none. number: shown beside the name (a layer, a step); -1: none.
  explicit TraceRange(std::string_view name, int64_t number = -1);
  ~TraceRange();
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  bool open_ = false;
};

}  // namespace llmft
