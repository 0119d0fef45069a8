// run.json of a run directory: written when the run starts (finished: false) and again at its end.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "llmft/report/machine.hpp"

namespace llmft {

constexpr int kRunReportFormat = 1;

// A double that is not finite becomes null.
using ReportValue = std::variant<bool, int64_t, double, std::string>;

struct RunReport {
  std::string command;  // "train", "preprocess"
  std::string started;  // utc_now()
  bool finished = false;
  std::vector<std::string> hosts;  // distinct, in rank order
  int64_t ranks = 1;
  int64_t nodes = 1;
  std::string device;  // Device::name()
  BuildInfo build = build_info();
  MachineInfo machine = machine_info();  // rank 0's
  std::string config_hash;
  std::vector<std::pair<std::string, ReportValue>> results;  // in this order; empty until the end
};

std::string to_json(const RunReport& report);
// Atomic.
void write_run_report(const std::filesystem::path& path, const RunReport& report);

}  // namespace llmft
