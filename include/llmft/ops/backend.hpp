// The one place where a backend is chosen.
#pragma once

#include <memory>

#include "llmft/ops/ops.hpp"

namespace llmft {

// GPUs that this process can use, 0 without a driver or in a build without CUDA.
int cuda_device_count();
// UserError: no CUDA in this build, no such GPU, or one that is too old (compute capability below 9.0), with
// what to do.
std::unique_ptr<Device> make_cuda_device(int ordinal);
// deterministic: attention's backward sums in a fixed order.
enum class AttentionOrder { fast, deterministic };
std::unique_ptr<Ops> make_cuda_ops(Device& device, MatmulMode mode, AttentionOrder order);

}  // namespace llmft
