// Ops that compute nothing and hold on their device what the backend for it would hold beside the tensors
// that it is given: with a dry device they tell how much memory a step needs, without a GPU.
#pragma once

#include <memory>

#include "llmft/ops/backend.hpp"

namespace llmft {

// device: a dry one. A CPU's scratch is not imitated.
std::unique_ptr<Ops> make_dry_ops(Device& device, MatmulMode mode);

}  // namespace llmft
