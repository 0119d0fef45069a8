#include "llmft/base/log.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

#include <unistd.h>

namespace llmft::log {
namespace {

int g_rank = 0;
int g_size = 1;
bool g_quiet = false;

// One write(2) a line: lines of several ranks on one stderr do not tear.
void write_line(std::string_view colour_code, std::string_view label, std::string_view line) {
  std::string out;
  if (g_size > 1 && !label.empty()) out += fmt::format("[rank {}] ", g_rank);
  if (!label.empty()) {
    if (colour())
      out += fmt::format("\033[{}m{}\033[0m", colour_code, label);
    else
      out += label;
  }
  out += line;
  out += '\n';
  std::fflush(stderr);
  [[maybe_unused]] auto written = ::write(STDERR_FILENO, out.data(), out.size());
}

}  // namespace

void set_rank(int rank, int size) {
  g_rank = rank;
  g_size = size;
}
int rank() {
  return g_rank;
}
int size() {
  return g_size;
}

bool colour() {
  static const bool on = ::isatty(STDERR_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  return on;
}

bool quiet() {
  return g_quiet;
}
void set_quiet(bool quiet) {
  g_quiet = quiet;
}

void info_line(std::string_view line) {
  if (g_rank == 0 && !g_quiet) write_line("", "", line);
}
void warn_line(std::string_view line) {
  write_line("33", "warning: ", line);
}
void error_line(std::string_view line) {
  write_line("31", "error: ", line);
}

}  // namespace llmft::log
