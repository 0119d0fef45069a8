#include "llmft/optim/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace llmft {

double Schedule::at(int64_t step) const {
  if (step < warmup_steps)
    return peak * static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup_steps));
  auto span = static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
  double progress = std::min(1.0, static_cast<double>(step - warmup_steps) / span);
  double factor = 1;
  if (kind == ScheduleKind::linear) factor = 1 - progress;
  if (kind == ScheduleKind::cosine) factor = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return peak * (min_ratio + (1 - min_ratio) * factor);
}

}  // namespace llmft
