// Addresses are handed out once and never again, so that two buffers can never be taken for one.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "llmft/device/device.hpp"

namespace llmft {
namespace {

class DryMark final : public Mark {
 public:
  void record() override {}
  void wait() override {}
  double seconds_since(const Mark&) const override { return 0; }
};

class DryDevice final : public Device {
 public:
  DryDevice(DeviceKind kind, std::string name, size_t total_memory)
      : kind_(kind), name_(std::move(name)), total_memory_(total_memory) {}

  DeviceKind kind() const override { return kind_; }
  std::string name() const override { return name_; }
  size_t total_memory() const override { return total_memory_; }
  bool is_dry() const override { return true; }
  size_t free_memory() const override { return total_memory_ - std::min(total_memory_, bytes_held()); }
  void synchronize() override {}
  std::unique_ptr<Mark> make_mark() override { return std::make_unique<DryMark>(); }

 protected:
  void* allocate_raw(size_t bytes) override {
    void* data = next_;
    next_ += (bytes + 255) / 256 * 256;
    return data;
  }
  void release_raw(void*) override {}
  void copy_to_device_raw(void*, const void*, size_t) override {}
  void copy_to_host_raw(void* host, const void*, size_t bytes) override { std::memset(host, 0, bytes); }
  void copy_raw(void*, const void*, size_t) override {}
  void zero_raw(void*, size_t) override {}
  void* allocate_host(size_t bytes) override { return std::aligned_alloc(256, (bytes + 255) / 256 * 256); }
  void release_host(void* data) override { std::free(data); }

 private:
  DeviceKind kind_;
  std::string name_;
  size_t total_memory_;
  std::byte* next_ = reinterpret_cast<std::byte*>(uintptr_t{1} << 32);
};

}  // namespace

std::unique_ptr<Device> make_dry_device(DeviceKind kind, std::string name, size_t total_memory) {
  return std::make_unique<DryDevice>(kind, std::move(name), total_memory);
}

}  // namespace llmft
