// Notices that a run stands still, and says who is at fault. Every rank writes a line about itself into a
// file of the run directory once a second, from a thread that neither MPI nor the GPU can stop; when a rank
// has waited in one collective for longer than the limit it reads all lines, twice, and judges by them:
//   a rank whose line stays as it was is dead or stopped; else the ranks that have made fewer collective
//   calls are the ones that all wait for; else the collective itself does not end (network, GPU).
// One rank prints the verdict, and every rank ends its own process with kExitStandstill: there is no orderly
// way out of a collective. Rank 0 also names a rank that takes much longer for its own work than the others.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "llmft/comm/process.hpp"

namespace llmft {

constexpr int kExitStandstill = 75;  // EX_TEMPFAIL: starting again from the last checkpoint may help

// A rank's line.
struct RankReport {
  int rank = 0;
  std::string host;
  std::string device;
  int64_t pid = 0;
  uint64_t beat = 0;     // seconds since the watch began, by this rank's thread
  int64_t step = 0;      // under way, from 1
  double busy = 0;       // seconds of its own work in all steps so far: without waiting for others
  uint64_t calls = 0;    // of collectives
  bool waiting = false;  // in the last of them, or for the device
  std::string call;
  std::string device_call;
};
std::string to_line(const RankReport& report);
std::optional<RankReport> parse_report(const std::string& line);

// before, after: all ranks' reports, some seconds apart; none where a rank has written none. "" when nobody
// can be blamed, else what is wrong, with every guilty rank's number, host, device, step and the call it
// misses.
std::string judge(std::span<const std::optional<RankReport>> before,
                  std::span<const std::optional<RankReport>> after);

// "" or who is slow: a rank that took more than 1.25 times the median of its peers for its own work in the
// steps between the two, of which there must be some.
std::string straggler(std::span<const std::optional<RankReport>> before,
                      std::span<const std::optional<RankReport>> after);

class Watchdog {
 public:
  // folder: shared by all ranks. limit: seconds.
  Watchdog(const Process& process, std::filesystem::path folder, double limit, std::string device);
  // Removes this rank's file.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // step: under way now. busy: seconds of own work in the steps before it, since the run began.
  void progress(int64_t step, double busy);

 private:
  using Reports = std::vector<std::optional<RankReport>>;
  void watch();
  void write_report();
  Reports read_reports() const;
  void end_of_run(const std::string& verdict, const Reports& reports) const;
  void look_for_stragglers();
  bool sleep(double seconds);  // false: the watch is over

  std::filesystem::path folder_;
  double limit_;
  int ranks_;
  RankReport mine_;
  bool warned_ = false;  // that the file cannot be written
  Reports window_;       // where the search for stragglers began
  std::string last_straggler_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace llmft
