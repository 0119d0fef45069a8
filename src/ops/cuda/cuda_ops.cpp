#include "cuda_ops.hpp"

#include "gemm.hpp"
#include "tensor_maps.hpp"

namespace llmft {
CudaOps::CudaOps(CudaDevice& device, MatmulMode mode, const GemmTuning& tuning)
    : device_(device),
      tuning_(tuning),
      hopper_(is_hopper(device.ordinal())),
      gemm_(std::make_unique<Gemm>(device, mode, tuning)),
      maps_(std::make_unique<TensorMaps>()),
      attention_(make_attention_engine(device, mode)) {}

CudaOps::~CudaOps() = default;

void* CudaOps::scratch(size_t bytes) {
  if (scratch_.bytes() < bytes) {
    scratch_ = Buffer();
    scratch_ = Buffer(device_, bytes, MemoryPart::workspace);
  }
  return scratch_.data();
}

void CudaOps::attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& out, const Tensor& lse) {
  attention_->attention(shape, cu_seqlens, q, k, v, out, lse);
}

void CudaOps::attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q,
                                 const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                                 const Tensor& dout, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                                 const Rotation& rotation) {
  attention_->attention_backward(shape, cu_seqlens, q, k, v, out, lse, dout, dq, dk, dv, rotation);
}

}  // namespace llmft
