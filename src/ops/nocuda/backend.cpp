#include "llmft/ops/backend.hpp"

namespace llmft {

int cuda_device_count() {
  return 0;
}

std::unique_ptr<Device> make_cuda_device(int) {
  user_error(
      "--device cuda: this llmft was built without CUDA; build it where a CUDA Toolkit is installed, or use "
      "--device cpu");
}

std::unique_ptr<Ops> make_cuda_ops(Device&, MatmulMode, KernelChoice, const GemmTuning&) {
  internal_error("CUDA ops in a build without CUDA");
}

std::unique_ptr<DecodeOps> make_cuda_decode_ops(Device&) {
  internal_error("CUDA ops in a build without CUDA");
}

}  // namespace llmft
