// Attention and its backward on a GPU: same contract as Ops::attention and Ops::attention_backward, on the
// device's stream.
#pragma once

#include <memory>

#include "../cuda_sizes.hpp"
#include "llmft/device/cuda_device.hpp"
#include "llmft/ops/backend.hpp"

namespace llmft {

class AttentionEngine {
 public:
  virtual ~AttentionEngine() = default;
  virtual void attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& out, const Tensor& lse) = 0;
  virtual void attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q,
                                  const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                                  const Tensor& dout, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                  const Rotation& rotation) = 0;
};

// Whether the device runs what is built for sm_90a alone.
bool is_hopper(int ordinal);

std::unique_ptr<AttentionEngine> make_attention_engine(CudaDevice& device, MatmulMode mode);

}  // namespace llmft
