#include "llmft/base/progress.hpp"

#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"

namespace llmft {
namespace {
constexpr double kTerminalInterval = 0.1;
constexpr double kLogInterval = 5.0;
}  // namespace

Progress::Progress(std::string label, uint64_t total)
    : label_(std::move(label)),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) != 0),
      active_(log::rank() == 0 && !log::quiet()),
      next_draw_(terminal_ ? kTerminalInterval : kLogInterval) {}

Progress::~Progress() {
  if (active_ && terminal_ && drawn_) std::fputc('\n', stderr);
}

void Progress::update(uint64_t done, std::string_view detail) {
  done_ = done;
  if (!active_ || since_start_.seconds() < next_draw_) return;
  next_draw_ = since_start_.seconds() + (terminal_ ? kTerminalInterval : kLogInterval);
  draw(detail, false);
}

void Progress::finish(std::string_view detail) {
  if (!active_) return;
  if (total_ != 0) done_ = total_;
  draw(detail, true);
  active_ = false;
}

void Progress::draw(std::string_view detail, bool last) {
  double elapsed = since_start_.seconds();
  std::string line = label_;
  if (total_ != 0) {
    double fraction = static_cast<double>(done_) / static_cast<double>(total_);
    if (terminal_) {
      constexpr int kWidth = 24;
      int filled = static_cast<int>(fraction * kWidth);
      line += " [";
      for (int i = 0; i < kWidth; ++i) line += i < filled ? '#' : '.';
      line += ']';
    }
    line += fmt::format(" {:3.0f}%", fraction * 100);
    if (!last && fraction > 0) line += fmt::format("  {} left", human_seconds(elapsed / fraction - elapsed));
  }
  if (last) line += fmt::format("  {}", human_seconds(elapsed));
  if (!detail.empty()) line += fmt::format("  {}", detail);
  if (terminal_) {
    fmt::print(stderr, "\r\033[K{}{}", line, last ? "\n" : "");
    std::fflush(stderr);
    drawn_ = !last;
  } else {
    log::info_line(line);
  }
}

}  // namespace llmft
