// What a run's devices took from the plug, for joules a token. Counters are the driver's own: of a GPU,
// NVML's total energy (mJ, renewed about every 0.1 s); of a CPU, RAPL's packages (uJ), which count everything
// that the node does and on most machines only root may read. What cannot be read is not measured; nothing is
// estimated from power.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "llmft/base/clock.hpp"

namespace llmft {

class EnergyMeter {
 public:
  // By its PCI address, "0000:17:00.0".
  static EnergyMeter of_gpu(const std::string& bus_id);
  static EnergyMeter of_cpus(const std::filesystem::path& powercap = "/sys/class/powercap");
  // Of a rank that shares its CPUs with one that counts them.
  static EnergyMeter none();

  // Since the last call, 0 the first time; nothing where a counter cannot be read.
  std::optional<double> joules();

 private:
  enum class Kind { none, gpu, cpus };
  struct Zone {  // wraps from `range` to 0
    std::filesystem::path counter;
    double range = 0;
    double last = -1;
  };

  Kind kind_ = Kind::none;
  void* gpu_ = nullptr;  // nvmlDevice_t; null: NVML does not know it
  double last_ = -1;
  std::vector<Zone> zones_;
};

// Of the NVIDIA driver, "570.124.06"; empty without one.
std::string driver_version();

// Joules of stretches of steps, each from the end of a step to the end of a later one: what happens between
// stretches, validation and checkpoints, does not count.
class StepEnergy {
 public:
  explicit StepEnergy(EnergyMeter meter) : meter_(std::move(meter)) {}

  // The device has just done a step of so many tokens. The first one of a stretch only begins it.
  void step_done(int64_t tokens);
  // Something else than steps comes next.
  void pause();

  // Of all stretches; nothing where a counter failed or the stretches last less than a second, too short for
  // it.
  std::optional<double> joules() const;
  int64_t tokens() const { return tokens_; }

 private:
  EnergyMeter meter_;
  bool running_ = false;
  bool failed_ = false;
  Stopwatch watch_;
  int64_t pending_ = 0;
  int64_t tokens_ = 0;
  double joules_ = 0;
  double seconds_ = 0;
};

}  // namespace llmft
