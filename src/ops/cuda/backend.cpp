#include "llmft/ops/backend.hpp"

namespace llmft {

// Without GPU ops there is no GPU to choose automatically.
int cuda_device_count() {
  return 0;
}

std::unique_ptr<Device> make_cuda_device(int) {
  user_error("--device cuda: this version trains on the CPU only; use --device cpu");
}

std::unique_ptr<Ops> make_cuda_ops(Device&, MatmulMode, AttentionOrder, const GemmTuning&) {
  internal_error("CUDA ops do not exist yet");
}

}  // namespace llmft
