#include "watchdog.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include <unistd.h>

#include "llmft/base/clock.hpp"
#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/log.hpp"
#include "llmft/base/text.hpp"
#include "llmft/comm/activity.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

constexpr double kTick = 1;
constexpr double kSecondLook =
    3.5;  // long enough for every living rank to beat, also over a network file system
constexpr int64_t kStragglerSteps = 20;  // in a window
constexpr uint64_t kStragglerSeconds = 3;
constexpr double kStragglerFactor = 1.25;

std::string name_of_rank(const RankReport& r) {
  return fmt::format("rank {} ({}, {}, process {})", r.rank, r.host, r.device, r.pid);
}

// Of the rank with the fewest calls' point of view: what the others are in.
std::string awaited_call(std::span<const std::optional<RankReport>> reports) {
  const RankReport* furthest = nullptr;
  for (const auto& r : reports)
    if (r && (furthest == nullptr || r->calls > furthest->calls)) furthest = &*r;
  if (furthest == nullptr) return "a collective";
  return furthest->device_call.empty() ? furthest->call : furthest->device_call;
}

}  // namespace

std::string to_line(const RankReport& r) {
  return fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\tend\n", r.rank, r.host, r.device, r.pid,
                     r.beat, r.step, number(r.busy), r.calls, r.waiting ? 1 : 0, r.call, r.device_call);
}

std::optional<RankReport> parse_report(const std::string& line) {
  std::vector<std::string> f = split(trim(line), '\t');
  if (f.size() != 12 || f[11] != "end") return std::nullopt;
  auto whole = [&](size_t i) { return parse_int(f[i]); };
  auto busy = parse_double(f[6]);
  if (!whole(0) || !whole(3) || !whole(4) || !whole(5) || !busy || !whole(7) || !whole(8))
    return std::nullopt;
  return RankReport{static_cast<int>(*whole(0)),
                    f[1],
                    f[2],
                    *whole(3),
                    static_cast<uint64_t>(*whole(4)),
                    *whole(5),
                    *busy,
                    static_cast<uint64_t>(*whole(7)),
                    *whole(8) != 0,
                    f[9],
                    f[10]};
}

std::string judge(std::span<const std::optional<RankReport>> before,
                  std::span<const std::optional<RankReport>> after) {
  std::vector<std::string> silent, behind;
  uint64_t most = 0, fewest = UINT64_MAX;
  for (size_t r = 0; r < after.size(); ++r) {
    if (after[r] && before[r] && before[r]->calls != after[r]->calls && before[r]->beat != after[r]->beat)
      return "";  // somebody goes on: slow, not stuck
    if (!after[r]) {
      silent.push_back(fmt::format("rank {} has written no report", r));
      continue;
    }
    if (before[r] && before[r]->beat == after[r]->beat) {
      silent.push_back(
          fmt::format("{} at step {} gives no sign of life (dead, stopped, or its node is lost); its "
                      "last call was number {}, {}",
                      name_of_rank(*after[r]), after[r]->step, after[r]->calls, after[r]->call));
      continue;
    }
    most = std::max(most, after[r]->calls);
    fewest = std::min(fewest, after[r]->calls);
  }
  std::string awaited = awaited_call(after);
  if (!silent.empty()) return fmt::format("{}; the others wait in {}", join(silent, "; "), awaited);
  if (fewest < most) {
    for (const auto& r : after)
      if (r && r->calls == fewest)
        behind.push_back(fmt::format("{} at step {} has made {} collective calls of {} and {}",
                                     name_of_rank(*r), r->step, r->calls, most,
                                     r->waiting ? "waits in " + r->call : "is busy with something else"));
    return fmt::format("{}; it misses {}, in which the others wait", join(behind, "; "), awaited);
  }
  for (const auto& r : after)
    if (r && r->waiting)
      return fmt::format(
          "all ranks are in {} at step {}, and it does not end: look at the network "
          "and the GPUs",
          awaited, r->step);
  return "";
}

std::string straggler(std::span<const std::optional<RankReport>> before,
                      std::span<const std::optional<RankReport>> after) {
  std::vector<double> seconds;
  for (size_t r = 0; r < after.size(); ++r) {
    if (!before[r] || !after[r] || after[r]->step <= before[r]->step) return "";
    seconds.push_back((after[r]->busy - before[r]->busy) /
                      static_cast<double>(after[r]->step - before[r]->step));
  }
  size_t slowest = static_cast<size_t>(std::max_element(seconds.begin(), seconds.end()) - seconds.begin());
  std::vector<double> others = seconds;
  others.erase(others.begin() + static_cast<std::ptrdiff_t>(slowest));
  if (others.empty()) return "";
  auto middle = others.begin() + static_cast<std::ptrdiff_t>(others.size() / 2);
  std::nth_element(others.begin(), middle, others.end());
  if (seconds[slowest] <= kStragglerFactor * *middle) return "";
  return fmt::format("{} is a straggler: {:.3f} s of own work a step, {:.2f} times the others' {:.3f} s",
                     name_of_rank(*after[slowest]), seconds[slowest], seconds[slowest] / *middle, *middle);
}

Watchdog::Watchdog(const Process& process, fs::path folder, double limit, std::string device)
    : folder_(std::move(folder)), limit_(limit), ranks_(process.size()) {
  mine_.rank = process.rank();
  mine_.host = process.host();
  mine_.device = std::move(device);
  mine_.pid = ::getpid();
  if (process.is_root()) {
    fs::remove_all(folder_);
    make_writable_folder(folder_);
  }
  process.barrier();
  write_report();
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  thread_.join();
  std::error_code ignored;
  fs::remove(folder_ / fmt::format("rank-{:05}", mine_.rank), ignored);
  fs::remove(folder_, ignored);  // by the last one
}

void Watchdog::progress(int64_t step, double busy) {
  std::lock_guard lock(mutex_);
  mine_.step = step;
  mine_.busy = busy;
}

bool Watchdog::sleep(double seconds) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return over_; });
  return !over_;
}

void Watchdog::write_report() {
  Activity::View view = Activity::of_process().view();
  std::string line;
  {
    std::lock_guard lock(mutex_);
    ++mine_.beat;
    mine_.calls = view.calls;
    mine_.waiting = view.waiting || !view.device.empty();
    mine_.call = view.call;
    mine_.device_call = view.device;
    line = to_line(mine_);
  }
  // opened and closed each time: over a network file system that is when others see it
  std::ofstream file(folder_ / fmt::format("rank-{:05}", mine_.rank), std::ios::trunc);
  file << line;
  file.close();
  if (!file && !warned_) {
    log::warn("{}: cannot write ({}); should the run stand still, this rank will seem dead", folder_.string(),
              std::strerror(errno));
    warned_ = true;
  }
}

Watchdog::Reports Watchdog::read_reports() const {
  Reports reports(static_cast<size_t>(ranks_));
  for (int r = 0; r < ranks_; ++r) {
    for (int attempt = 0; attempt < 5; ++attempt) {  // it may be half written just now
      std::ifstream file(folder_ / fmt::format("rank-{:05}", r));
      std::string line;
      if (std::getline(file, line)) reports[static_cast<size_t>(r)] = parse_report(line);
      if (reports[static_cast<size_t>(r)]) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  return reports;
}

void Watchdog::watch() {
  Stopwatch still;  // since the last call
  uint64_t calls = 0;
  while (sleep(kTick)) {
    write_report();
    if (mine_.rank == 0) look_for_stragglers();
    if (mine_.calls != calls || !mine_.waiting) {
      calls = mine_.calls;
      still.reset();
    }
    if (still.seconds() < limit_) continue;
    Reports before = read_reports();
    for (Stopwatch wait; wait.seconds() < kSecondLook;) {
      if (!sleep(kTick)) return;
      write_report();
    }
    if (mine_.calls != calls) continue;
    Reports after = read_reports();
    std::string verdict = judge(before, after);
    if (!verdict.empty()) end_of_run(verdict, after);
    still.reset();
  }
}

// The first rank that waits speaks. The others give it time to, and so does the launcher, which ends all as
// soon as one has ended.
void Watchdog::end_of_run(const std::string& verdict, const Reports& reports) const {
  int speaker = mine_.rank;
  for (int r = ranks_ - 1; r >= 0; --r)
    if (const auto& report = reports[static_cast<size_t>(r)]; report && report->waiting) speaker = r;
  if (speaker == mine_.rank)
    log::error_line(
        fmt::format("no progress for {:.0f} s: {}; the run is ended, go on with --resume", limit_, verdict));
  else
    std::this_thread::sleep_for(std::chrono::seconds(2));
  std::_Exit(kExitStandstill);
}

void Watchdog::look_for_stragglers() {
  if (ranks_ < 2) return;
  Reports now = read_reports();
  for (const auto& report : now)
    if (!report || report->step < 1) return;
  if (window_.empty()) {
    window_ = now;
    return;
  }
  int64_t steps = INT64_MAX;
  uint64_t seconds = UINT64_MAX;
  for (size_t r = 0; r < now.size(); ++r) {
    steps = std::min(steps, now[r]->step - window_[r]->step);
    seconds = std::min(seconds, now[r]->beat - window_[r]->beat);
  }
  if (steps < kStragglerSteps || seconds < kStragglerSeconds) return;
  std::string found = straggler(window_, now);
  std::string who = found.substr(0, found.find(" is a straggler"));
  if (!found.empty() && who != last_straggler_) log::warn("{}", found);
  last_straggler_ = who;
  window_ = now;
}

}  // namespace llmft
