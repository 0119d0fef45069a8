#include "llmft/report/tables.hpp"

#include <algorithm>

#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "llmft/report/csv.hpp"

namespace llmft {
namespace {

std::vector<CsvColumn> timing_columns(int rank, const PhaseTimer::Phase& phase) {
  return {{"rank", std::to_string(rank)},
          {"phase", phase.name},
          {"seconds", number(phase.seconds)},
          {"count", std::to_string(phase.count)}};
}

std::vector<CsvColumn> memory_columns(int rank, const MemoryRow& row) {
  return {{"rank", std::to_string(rank)}, {"part", row.first}, {"bytes", std::to_string(row.second)}};
}

void write_table(const std::filesystem::path& path, const std::string& header,
                 std::span<const std::string> rows) {
  std::string text = header + "\n";
  for (const std::string& of_rank : rows) text += of_rank;
  write_file_atomic(path, text);
}

}  // namespace

PhaseTimer::Phase& PhaseTimer::phase(std::string_view name) {
  for (Phase& phase : phases_)
    if (phase.name == name) return phase;
  return phases_.emplace_back(Phase{std::string(name)});
}

void PhaseTimer::add(std::string_view name, double seconds, int64_t count) {
  Phase& at = phase(name);
  at.seconds += seconds;
  at.count += count;
}

double PhaseTimer::seconds(std::string_view name) const {
  for (const Phase& phase : phases_)
    if (phase.name == name) return phase.seconds;
  return 0;
}

std::string timing_rows(int rank, const PhaseTimer& timer) {
  std::string text;
  for (const PhaseTimer::Phase& phase : timer.phases()) text += csv_row(timing_columns(rank, phase)) + "\n";
  return text;
}

std::string memory_rows(int rank, std::span<const MemoryRow> rows) {
  std::string text;
  for (const MemoryRow& row : rows) text += csv_row(memory_columns(rank, row)) + "\n";
  return text;
}

void write_timing_table(const std::filesystem::path& path, std::span<const std::string> rows) {
  write_table(path, csv_header(timing_columns(0, {})), rows);
}

void write_memory_table(const std::filesystem::path& path, std::span<const std::string> rows) {
  write_table(path, csv_header(memory_columns(0, {})), rows);
}

}  // namespace llmft
