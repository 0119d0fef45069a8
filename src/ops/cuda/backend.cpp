#include "llmft/ops/backend.hpp"

#include "cuda_ops.hpp"

namespace llmft {

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::unique_ptr<Device> make_cuda_device(int ordinal) {
  return std::make_unique<CudaDevice>(ordinal);
}

std::unique_ptr<Ops> make_cuda_ops(Device& device, MatmulMode mode, AttentionOrder order,
                                   const GemmTuning& tuning) {
  auto* cuda = dynamic_cast<CudaDevice*>(&device);
  check(cuda != nullptr, "CUDA ops on another device");
  GemmTuning effective = tuning;
  if (order == AttentionOrder::deterministic) effective.choice = GemmTuning::Choice::first;
  return std::make_unique<CudaOps>(*cuda, mode, order, effective);
}

std::unique_ptr<DecodeOps> make_cuda_decode_ops(Device&) {
  user_error("--device cuda: this version generates on the CPU only; use --device cpu");
}

}  // namespace llmft
