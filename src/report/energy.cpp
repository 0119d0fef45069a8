// NVML is opened when first needed and belongs to the driver: a program that links it does not start on a
// node without a GPU.
#include "llmft/report/energy.hpp"

#include <array>
#include <fstream>

#include <dlfcn.h>

namespace llmft {
namespace fs = std::filesystem;
namespace {

constexpr double kShortestSeconds = 1;

// nvml.h's functions, 0: success.
struct Nvml {
  int (*init)() = nullptr;
  int (*driver)(char*, unsigned) = nullptr;
  int (*device)(const char*, void**) = nullptr;
  int (*energy)(void*, unsigned long long*) = nullptr;
  bool ready = false;
};

template <class Function>
void find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(::dlsym(library, name));
}

const Nvml& nvml() {
  static const Nvml loaded = [] {
    Nvml n;
    void* library = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return n;
    find(library, "nvmlInit_v2", n.init);
    find(library, "nvmlSystemGetDriverVersion", n.driver);
    find(library, "nvmlDeviceGetHandleByPciBusId_v2", n.device);
    find(library, "nvmlDeviceGetTotalEnergyConsumption", n.energy);
    n.ready = n.init != nullptr && n.driver != nullptr && n.device != nullptr && n.energy != nullptr &&
              n.init() == 0;
    return n;
  }();
  return loaded;
}

std::optional<double> read_number(const fs::path& path) {
  double value = 0;
  std::ifstream file(path);
  if (file >> value) return value;
  return std::nullopt;
}

}  // namespace

EnergyMeter EnergyMeter::none() {
  return {};
}

EnergyMeter EnergyMeter::of_gpu(const std::string& bus_id) {
  EnergyMeter meter;
  meter.kind_ = Kind::gpu;
  if (nvml().ready && nvml().device(bus_id.c_str(), &meter.gpu_) != 0) meter.gpu_ = nullptr;
  return meter;
}

EnergyMeter EnergyMeter::of_cpus(const fs::path& powercap) {
  EnergyMeter meter;
  meter.kind_ = Kind::cpus;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(powercap, ignored)) {
    std::string name = entry.path().filename().string();
    // a package is intel-rapl:0 on AMD too; intel-rapl:0:0 is a part of it
    size_t colon = name.find(':');
    if (!name.starts_with("intel-rapl:") || name.find(':', colon + 1) != std::string::npos) continue;
    double range = read_number(entry.path() / "max_energy_range_uj").value_or(0);
    meter.zones_.push_back({entry.path() / "energy_uj", range});
  }
  return meter;
}

std::optional<double> EnergyMeter::joules() {
  if (kind_ == Kind::none) return 0;
  if (kind_ == Kind::gpu) {
    unsigned long long millijoules = 0;
    if (gpu_ == nullptr || nvml().energy(gpu_, &millijoules) != 0) return std::nullopt;
    auto now = static_cast<double>(millijoules);
    double since = last_ < 0 ? 0 : now - last_;
    last_ = now;
    return since * 1e-3;
  }
  if (zones_.empty()) return std::nullopt;
  double total = 0;
  for (Zone& zone : zones_) {
    std::optional<double> now = read_number(zone.counter);
    if (!now) return std::nullopt;
    double since = zone.last < 0 ? 0 : *now - zone.last;
    if (since < 0) since += zone.range;
    zone.last = *now;
    total += since;
  }
  return total * 1e-6;
}

std::string driver_version() {
  std::array<char, 128> text{};
  if (!nvml().ready || nvml().driver(text.data(), text.size()) != 0) return "";
  return text.data();
}

void StepEnergy::step_done(int64_t tokens) {
  if (running_) {
    pending_ += tokens;
    return;
  }
  failed_ = failed_ || !meter_.joules();
  running_ = true;
  pending_ = 0;
  watch_.reset();
}

void StepEnergy::pause() {
  if (running_ && pending_ > 0) {
    std::optional<double> used = meter_.joules();
    failed_ = failed_ || !used;
    joules_ += used.value_or(0);
    seconds_ += watch_.seconds();
    tokens_ += pending_;
  }
  running_ = false;
}

std::optional<double> StepEnergy::joules() const {
  if (failed_ || seconds_ < kShortestSeconds) return std::nullopt;
  return joules_;
}

}  // namespace llmft
