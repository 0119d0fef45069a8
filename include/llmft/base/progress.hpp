// One progress line on rank 0: redrawn in place on a terminal, a plain line every few seconds elsewhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "llmft/base/clock.hpp"

namespace llmft {

class Progress {
 public:
  // label: "preprocess"; total: 0 if unknown. Draws nothing when log::quiet() or on ranks other than 0.
  Progress(std::string label, uint64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // done so far; detail: "123k rows/s, 210 MB/s". Cheap: draws at most ten times a second (terminal) or every
  // five seconds (log file).
  void update(uint64_t done, std::string_view detail);
  // Last line stays visible.
  void finish(std::string_view detail);

 private:
  void draw(std::string_view detail, bool last);

  std::string label_;
  uint64_t total_;
  uint64_t done_ = 0;
  bool terminal_;
  bool active_;
  bool drawn_ = false;
  Stopwatch since_start_;
  double next_draw_;
};

}  // namespace llmft
