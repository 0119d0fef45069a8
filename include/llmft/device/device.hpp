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

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::string name() const = 0;  // "AMD EPYC 7543", "NVIDIA H100 80GB HBM3"
  virtual size_t total_memory() const = 0;

  // 256-byte aligned. UserError when out of memory, naming part, size and what to lower.
  void* allocate(size_t bytes, MemoryPart part);
  void release(void* data, size_t bytes, MemoryPart part);

  // Stream-ordered; host memory may be pageable. The CPU's are plain memcpy and memset.
  virtual void copy_to_device(void* device, const void* host, size_t bytes) = 0;
  virtual void copy_to_host(void* host, const void* device, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void zero(void* data, size_t bytes) = 0;
  virtual void synchronize() = 0;
  virtual std::unique_ptr<Mark> make_mark() = 0;

  size_t bytes_held(MemoryPart part) const { return held_[static_cast<size_t>(part)]; }
  size_t bytes_held() const;
  size_t peak_bytes() const { return peak_; }
  size_t peak_bytes(MemoryPart part) const { return peak_by_part_[static_cast<size_t>(part)]; }

 protected:
  virtual void* allocate_raw(size_t bytes) = 0;  // null when there is none left
  virtual void release_raw(void* data) = 0;
  // Host memory that copies to and from the device need not wait for.
  virtual void* allocate_host(size_t bytes) = 0;
  virtual void release_host(void* data) = 0;
  friend class HostBuffer;

 private:
  std::array<size_t, kMemoryParts> held_{};
  std::array<size_t, kMemoryParts> peak_by_part_{};
  size_t peak_ = 0;
};

std::unique_ptr<Device> make_cpu_device();

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
