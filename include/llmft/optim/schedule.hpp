// Learning-rate schedules, per step, as transformers' get_*_schedule_with_warmup: linear warm-up from 0, then
// constant, or to min_ratio of the peak at the last step by a straight line or half a cosine. Step 0 is the
// first update.
#pragma once

#include <cstdint>
#include <utility>

namespace llmft {

enum class ScheduleKind { constant, linear, cosine };
inline constexpr std::pair<const char*, ScheduleKind> kScheduleNames[] = {
    {"constant", ScheduleKind::constant}, {"linear", ScheduleKind::linear}, {"cosine", ScheduleKind::cosine}};

struct Schedule {
  ScheduleKind kind = ScheduleKind::cosine;
  double peak = 2e-4;
  int64_t warmup_steps = 0;
  int64_t total_steps = 1;
  double min_ratio = 0;

  double at(int64_t step) const;
};

}  // namespace llmft
