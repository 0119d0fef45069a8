// One GPU as a Device: plain cudaMalloc, one stream that every copy and kernel of this process goes through,
// so that what is called first happens first. Only CUDA sources include this.
#pragma once

#include <string>

#include <cuda_runtime_api.h>

#include "llmft/device/device.hpp"

namespace llmft {

// Passes success; UserError where the machine is at fault (no memory left, GPU lost or taken), else an
// InternalError with the caller's place. Kernels run later than their launch: a failure may be an earlier
// one's.
void cuda_check(cudaError_t status, const char* file = __builtin_FILE(), int line = __builtin_LINE());

class CudaDevice final : public Device {
 public:
  // Makes the GPU current for the calling thread. UserError: no driver or one too old, no such GPU, a GPU
  // before Hopper (compute capability 9.0).
  explicit CudaDevice(int ordinal);
  ~CudaDevice() override;

  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string name() const override { return name_; }
  size_t total_memory() const override { return total_memory_; }

  size_t free_memory() const override;

  void synchronize() override;
  std::unique_ptr<Mark> make_mark() override;

  int ordinal() const { return ordinal_; }
  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return multiprocessors_; }

 protected:
  void* allocate_raw(size_t bytes) override;
  void release_raw(void* data) override;
  void copy_to_device_raw(void* device, const void* host, size_t bytes) override;
  void copy_to_host_raw(void* host, const void* device, size_t bytes) override;
  void copy_raw(void* to, const void* from, size_t bytes) override;
  void zero_raw(void* data, size_t bytes) override;
  void* allocate_host(size_t bytes) override;
  void release_host(void* data) override;

 private:
  int ordinal_;
  std::string name_;
  size_t total_memory_ = 0;
  int multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace llmft
