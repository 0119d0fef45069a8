// Log lines for people, on stderr. info() speaks on rank 0 only; warn() and error() on every rank, with the
// rank's number when there is more than one. Colours only where stderr is a terminal and NO_COLOR is not set.
#pragma once

#include <string_view>

#include <fmt/format.h>

namespace llmft::log {

void set_rank(int rank, int size);
int rank();
int size();
bool colour();  // stderr takes colours
bool quiet();   // --quiet: info() is silent
void set_quiet(bool quiet);

void info_line(std::string_view line);
void warn_line(std::string_view line);
void error_line(std::string_view line);

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  info_line(fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  warn_line(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace llmft::log
