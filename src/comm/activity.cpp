#include "llmft/comm/activity.hpp"

#include <utility>

#include <fmt/format.h>

#include "llmft/base/text.hpp"

namespace llmft {

Activity& Activity::of_process() {
  static Activity activity;
  return activity;
}

Activity::View Activity::view() const {
  View view;
  view.calls = calls_.load(std::memory_order_acquire);
  view.waiting = waiting_.load(std::memory_order_relaxed) > 0;
  view.call = describe_call(name_.load(std::memory_order_relaxed), bytes_.load(std::memory_order_relaxed));
  std::lock_guard lock(mutex_);
  if (device_view_) view.device = device_view_();
  return view;
}

void Activity::set_device_view(std::function<std::string()> view) {
  std::lock_guard lock(mutex_);
  device_view_ = std::move(view);
}

std::string describe_call(const char* name, size_t bytes) {
  return bytes == 0 ? name : fmt::format("{} of {}", name, human_bytes(static_cast<double>(bytes)));
}

}  // namespace llmft
