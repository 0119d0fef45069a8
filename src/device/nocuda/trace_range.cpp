#include "llmft/device/trace_range.hpp"

namespace llmft {

TraceRange::TraceRange(std::string_view, int64_t) {}
TraceRange::~TraceRange() = default;

}  // namespace llmft
