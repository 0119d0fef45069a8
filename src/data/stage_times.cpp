#include "stage_times.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include <sys/resource.h>

#include "llmft/base/log.hpp"

namespace llmft {
namespace {

constexpr size_t kFields = 13;
using Fields = std::array<double, kFields>;
constexpr std::array<const char*, 10> kTimes = {"read", "decode",     "template", "tokenize", "write",
                                                "sync", "duplicates", "wait",     "wall",     "CPU"};
constexpr size_t kWall = 8;
constexpr size_t kCpu = 9;
constexpr size_t kRows = 10;
constexpr size_t kText = 11;
constexpr size_t kPeak = 12;
constexpr size_t kMostLines = 64;

Fields fields_of(const StageTimes& t) {
  return {t.read, t.decode, t.chat_template, t.tokenize, t.write,      t.sync,      t.duplicates,
          t.wait, t.wall,   t.cpu,           t.rows,     t.text_bytes, t.peak_bytes};
}

std::string line(const std::string& name, const Fields& f) {
  std::string text = fmt::format("{:>5} {:>10.0f} {:>9.1f}", name, f[kRows], f[kText] / 1e6);
  for (size_t i = 0; i < kTimes.size(); ++i) text += fmt::format(" {:>10.2f}", f[i]);
  return text + fmt::format(" {:>8.1f} {:>8.0f}", f[kText] / 1e6 / std::max(f[kCpu], 1e-9), f[kPeak] / 1e6);
}

}  // namespace

void measure_process(StageTimes& times) {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  times.cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  times.peak_bytes = static_cast<double>(usage.ru_maxrss) * 1024;
}

void print_stage_times(const Process& process, const StageTimes& mine) {
  Fields fields = fields_of(mine);
  std::array<uint64_t, kFields> bits{};
  std::memcpy(bits.data(), fields.data(), sizeof bits);
  std::vector<uint64_t> all = process.all_gather(std::span<const uint64_t>(bits));
  if (!process.is_root()) return;
  std::string header = fmt::format("{:>5} {:>10} {:>9}", "rank", "rows", "text MB");
  for (const char* name : kTimes) header += fmt::format(" {:>10}", name);
  log::info("seconds of each rank; decode, write and sync run beside template and tokenize");
  log::info("{} {:>8} {:>8}", header, "MB/CPU s", "peak MB");
  Fields sum{};
  for (size_t rank = 0; rank * kFields < all.size(); ++rank) {
    Fields f;
    std::memcpy(f.data(), &all[rank * kFields], sizeof f);
    for (size_t i = 0; i < kFields; ++i)
      sum[i] = i == kWall || i == kPeak ? std::max(sum[i], f[i]) : sum[i] + f[i];
    if (rank < kMostLines) log::info("{}", line(std::to_string(rank), f));
  }
  log::info("{}", line("all", sum));
}

}  // namespace llmft
