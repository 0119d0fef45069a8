// Where tensors live. A Device allocates, copies and accounts memory by part, so that memory.csv is what was
// really held; a Buffer owns one allocation; an Arena is one allocation planned before the first step and
// handed out as views.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/tensor/tensor.hpp"

namespace llmft {

// gathered: what a rank holds only while a block is in use or its gradients travel (whole blocks under FSDP,
// pooled); weights, adapters, gradients and optimizer are then what it holds between uses.
enum class MemoryPart { weights, adapters, gradients, optimizer, activations, logits, workspace, gathered };
constexpr int kMemoryParts = 8;
const char* name_of(MemoryPart part);

enum class DeviceKind { cpu, cuda };

// A point in a device's work.
class Mark {
 public:
  virtual ~Mark() = default;
  virtual void record() = 0;
  // Until all work given to the device before record() is done. At once if never recorded.
  virtual void wait() = 0;
  // Seconds of the device's clock since an earlier mark; both must be done.
  virtual double seconds_since(const Mark& earlier) const = 0;
};

class Profile;

// making: buffers come and go. rehearsing: what is in buffers does not count yet, so trials may write into
// them. sealed: what a step needs is there.
enum class DevicePhase { making, rehearsing, sealed };

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::string name() const = 0;  // "AMD EPYC 7543", "NVIDIA H100 80GB HBM3"
  virtual size_t total_memory() const = 0;
  // Has no memory behind it: values need not be made for it.
  virtual bool is_dry() const { return false; }

  // What can still be allocated, by all who use the device.
  virtual size_t free_memory() const = 0;

  // 256-byte aligned. UserError when out of memory, naming part, size and what to lower. InternalError when
  // sealed, but for a CPU's workspace: its ops' scratch grows with the shapes that they meet.
  void* allocate(size_t bytes, MemoryPart part);
  void release(void* data, size_t bytes, MemoryPart part);

  // What to do where there is no more; training's as long as nothing is said.
  void set_memory_advice(std::string advice) { memory_advice_ = std::move(advice); }

  DevicePhase phase() const { return phase_; }
  void set_phase(DevicePhase phase) { phase_ = phase; }

  // Stream-ordered; host memory may be pageable. The CPU's are plain memcpy and memset.
  void copy_to_device(void* device, const void* host, size_t bytes);
  void copy_to_host(void* host, const void* device, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);
  void zero(void* data, size_t bytes);
  virtual void synchronize() = 0;
  virtual std::unique_ptr<Mark> make_mark() = 0;

  // Measures copies and clears too while it is set.
  void set_profile(Profile* profile) { profile_ = profile; }
  Profile* profile() const { return profile_; }

  size_t bytes_held(MemoryPart part) const { return held_[static_cast<size_t>(part)]; }
  size_t bytes_held() const;
  size_t peak_bytes() const { return peak_; }
  size_t peak_bytes(MemoryPart part) const { return peak_by_part_[static_cast<size_t>(part)]; }

 protected:
  virtual void* allocate_raw(size_t bytes) = 0;  // null when there is none left
  virtual void release_raw(void* data) = 0;
  virtual void copy_to_device_raw(void* device, const void* host, size_t bytes) = 0;
  virtual void copy_to_host_raw(void* host, const void* device, size_t bytes) = 0;
  virtual void copy_raw(void* to, const void* from, size_t bytes) = 0;
  virtual void zero_raw(void* data, size_t bytes) = 0;
  // Host memory that copies to and from the device need not wait for.
  virtual void* allocate_host(size_t bytes) = 0;
  virtual void release_host(void* data) = 0;
  friend class HostBuffer;

 private:
  std::array<size_t, kMemoryParts> held_{};
  std::array<size_t, kMemoryParts> peak_by_part_{};
  size_t peak_ = 0;
  DevicePhase phase_ = DevicePhase::making;
  std::string memory_advice_ = "lower train.pack_tokens, or use --strategy fsdp on more ranks";
  Profile* profile_ = nullptr;
};

std::unique_ptr<Device> make_cpu_device();

// A device with no memory behind it, to plan for one: it hands out addresses that nothing may read or write,
// accounts for them as any device, and does nothing when told to copy.
std::unique_ptr<Device> make_dry_device(DeviceKind kind, std::string name, size_t total_memory);

// What `llmft info` and run.json say of the GPUs of this node; empty without CUDA or without a GPU.
struct GpuInfo {
  std::string name;
  size_t memory_bytes;
  int compute_major;
  int compute_minor;
  std::string uuid;    // the same for every process that sees this GPU
  std::string bus_id;  // PCI, "0000:17:00.0"
};
std::vector<GpuInfo> list_gpus();
// UserError where the program has no code for this GPU.
void require_supported(const GpuInfo& gpu);
// "13.0", or "" in a build without CUDA.
std::string cuda_build_version();

class Buffer {
 public:
  Buffer() = default;
  Buffer(Device& device, size_t bytes, MemoryPart part);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  // A rows x cols view from `offset` bytes on; it must fit.
  Tensor view(DType dtype, int64_t rows, int64_t cols, size_t offset = 0) const;

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  MemoryPart part_ = MemoryPart::workspace;
};

// Host memory that the device copies to and from at its own time.
class HostBuffer {
 public:
  HostBuffer() = default;
  HostBuffer(Device& device, size_t bytes);
  ~HostBuffer();
  HostBuffer(HostBuffer&& other) noexcept;
  HostBuffer& operator=(HostBuffer&& other) noexcept;
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Planned memory: reserve() everything, commit() once, then view(). Slots with the same non-empty `share`
// name lie at the same address: scratch that one layer after another uses.
class Arena {
 public:
  struct Slot {
    int index = -1;
  };

  Slot reserve(std::string name, MemoryPart part, DType dtype, int64_t rows, int64_t cols,
               const std::string& share = "");
  void commit(Device& device);
  // The first `rows` rows of a slot (all with -1).
  Tensor view(Slot slot, int64_t rows = -1) const;
  // Bytes a commit() takes for this part, before or after it.
  size_t planned_bytes(MemoryPart part) const;

 private:
  struct Entry {
    std::string name;
    MemoryPart part;
    DType dtype;
    int64_t rows;
    int64_t cols;
    size_t region;
  };
  struct Region {
    std::string share;
    MemoryPart part;
    size_t bytes;
    Buffer buffer;
  };
  std::vector<Entry> entries_;
  std::vector<Region> regions_;
};

}  // namespace llmft
