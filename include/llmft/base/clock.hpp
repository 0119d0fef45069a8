// Wall-clock time for measurements.
#pragma once

#include <chrono>
#include <string>

namespace llmft {

// Seconds since construction or the last reset().
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void reset() { start_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

// UTC, ISO 8601, seconds: "2026-01-31T12:00:00Z".
std::string utc_now();

}  // namespace llmft
