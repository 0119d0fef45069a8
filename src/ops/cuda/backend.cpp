#include "llmft/ops/backend.hpp"

#include <cstdlib>
#include <string_view>

#include "cuda_ops.hpp"

namespace llmft {
namespace {

GemmTuning::Swiglu swiglu_of(std::string_view name) {
  if (name == "measured") return GemmTuning::Swiglu::measured;
  if (name == "fused") return GemmTuning::Swiglu::fused;
  if (name == "pair") return GemmTuning::Swiglu::pair;
  user_error("LLMFT_SWIGLU={}: not one of measured, fused, pair; unset it", name);
}

}  // namespace

int cuda_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::unique_ptr<Device> make_cuda_device(int ordinal) {
  return std::make_unique<CudaDevice>(ordinal);
}

std::unique_ptr<Ops> make_cuda_ops(Device& device, MatmulMode mode, KernelChoice kernels,
                                   const GemmTuning& tuning) {
  auto* cuda = dynamic_cast<CudaDevice*>(&device);
  check(cuda != nullptr, "CUDA ops on another device");
  GemmTuning effective = tuning;
  if (const char* wanted = std::getenv("LLMFT_SWIGLU")) effective.swiglu = swiglu_of(wanted);
  if (kernels == KernelChoice::fixed) {
    effective.choice = GemmTuning::Choice::first;
    effective.swiglu = GemmTuning::Swiglu::pair;
  }
  return std::make_unique<CudaOps>(*cuda, mode, effective);
}

}  // namespace llmft
