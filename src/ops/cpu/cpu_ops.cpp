#include "cpu_ops.hpp"

#include "rows.hpp"

namespace llmft {

CpuOps::CpuOps(Device& device, MatmulMode mode, int threads)
    : device_(device), mode_(mode), threads_(threads) {
  check(device.kind() == DeviceKind::cpu, "CPU ops on another device");
  check(threads >= 1, "CPU ops need one thread at least");
}

float* CpuOps::scratch(size_t slot, int64_t count) {
  Buffer& buffer = scratch_.at(slot);
  size_t bytes = static_cast<size_t>(count) * sizeof(float);
  if (buffer.bytes() < bytes) {
    buffer = Buffer();
    buffer = Buffer(device_, bytes, MemoryPart::workspace);
  }
  return static_cast<float*>(buffer.data());
}

Tensor CpuOps::f32_like(const Tensor& x, size_t slot) {
  if (x.dtype == DType::f32) return x;
  return matrix_view(scratch(slot, x.numel()), x.rows, x.cols);
}

Tensor CpuOps::as_f32(const Tensor& x, size_t slot) {
  Tensor f32 = f32_like(x, slot);
  if (x.dtype != DType::f32) load_matrix(x, f32);
  return f32;
}

std::unique_ptr<Ops> make_cpu_ops(Device& device, MatmulMode mode, int threads) {
  return std::make_unique<CpuOps>(device, mode, threads);
}

}  // namespace llmft
