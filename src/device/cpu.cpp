#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>

#include <sys/sysinfo.h>

#include "llmft/base/text.hpp"
#include "llmft/device/device.hpp"

namespace llmft {
namespace {

// Work is done when the call returns.
class CpuMark final : public Mark {
 public:
  void record() override { time_ = Clock::now(); }
  void wait() override {}
  double seconds_since(const Mark& earlier) const override {
    return std::chrono::duration<double>(time_ - dynamic_cast<const CpuMark&>(earlier).time_).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point time_;
};

class CpuDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::cpu; }

  std::string name() const override {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("model name")) return std::string(trim(line.substr(line.find(':') + 1)));
    return "CPU";
  }

  size_t total_memory() const override {
    struct sysinfo info {};
    sysinfo(&info);
    return static_cast<size_t>(info.totalram) * info.mem_unit;
  }

  size_t free_memory() const override {
    std::ifstream info("/proc/meminfo");
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("MemAvailable:")) return std::stoull(line.substr(13)) * 1024;
    return total_memory();
  }

  void synchronize() override {}
  std::unique_ptr<Mark> make_mark() override { return std::make_unique<CpuMark>(); }

 protected:
  void* allocate_raw(size_t bytes) override { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
  void release_raw(void* data) override { std::free(data); }
  void copy_to_device_raw(void* device, const void* host, size_t bytes) override {
    copy_raw(device, host, bytes);
  }
  void copy_to_host_raw(void* host, const void* device, size_t bytes) override {
    copy_raw(host, device, bytes);
  }
  void copy_raw(void* to, const void* from, size_t bytes) override {
    if (bytes != 0) std::memmove(to, from, bytes);
  }
  void zero_raw(void* data, size_t bytes) override {
    if (bytes != 0) std::memset(data, 0, bytes);
  }
  void* allocate_host(size_t bytes) override {
    void* data = allocate_raw(bytes);
    if (data == nullptr) throw std::bad_alloc();
    return data;
  }
  void release_host(void* data) override { std::free(data); }
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() {
  return std::make_unique<CpuDevice>();
}

}  // namespace llmft
