// The CUDA backend: every op is one or a few launches on the device's stream and returns before they are
// done. Members check shapes on the host (shapes.hpp); kernels.hpp declares what they launch. No float
// atomics anywhere: every sum runs in an order fixed by the shapes, so results repeat bit for bit.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "attention.hpp"
#include "llmft/device/cuda_device.hpp"
#include "llmft/ops/backend.hpp"

namespace llmft {

class Gemm;
class TensorMaps;
namespace cuda {
struct GemmSwiglu;
struct BoxShape;
}  // namespace cuda

class CudaOps final : public Ops {
 public:
  CudaOps(CudaDevice& device, MatmulMode mode, const GemmTuning& tuning);
  ~CudaOps() override;

  CudaDevice& device() override { return device_; }

  void embed(Indices tokens, const Tensor& table, const Tensor& x) override;
  void embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable) override;
  void norm(const Tensor& x, const Tensor& w, float eps, const Tensor& a, const Tensor& y,
            const Tensor& rstd) override;
  void norm_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& rstd, const Tensor& b,
                     const Tensor& dx, const Tensor& dw) override;
  void matmul(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float alpha, float beta,
              const Tensor& c) override;
  void rope(const Tensor& x, Indices positions, const Tensor& table, Direction direction) override;
  void attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                 const Tensor& v, const Tensor& out, const Tensor& lse) override;
  void attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                          const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& dout,
                          const Tensor& dq, const Tensor& dk, const Tensor& dv,
                          const Rotation& rotation) override;
  void swiglu(const Tensor& gate_up, const Tensor& h) override;
  void swiglu_backward(const Tensor& dh, const Tensor& gate_up, const Tensor& h) override;
  void matmul_swiglu(const Tensor& x, const Tensor& w, const Tensor& gate_up, const Tensor& h) override;
  void matmul_swiglu_backward(const Tensor& dy, const Tensor& w, const Tensor& gate_up, const Tensor& dh,
                              const Tensor& h) override;
  void gather_rows(const Tensor& x, Indices rows, const Tensor& y) override;
  void scatter_rows(const Tensor& y, Indices rows, const Tensor& x) override;
  void cross_entropy(const Tensor& logits, Indices targets, float scale, const Tensor& loss, LossMode mode,
                     const Tensor& loss_scale) override;
  void convert(const Tensor& from, const Tensor& to, float scale) override;
  void convert_each(std::span<const Conversion> list) override;
  void add(const Tensor& from, const Tensor& to) override;
  void chunk_sum_squares(const Tensor& x, int64_t chunk, const Tensor& out) override;
  void sum(const Tensor& x, const Tensor& out) override;
  void advance_update(const UpdateRule& rule, const Tensor& sum_squares, const Tensor& state) override;
  void adamw(const AdamWParams& params, const Tensor& state, const Tensor& p, const Tensor& m,
             const Tensor& v, const Tensor& grad, const Tensor& copy) override;

 private:
  // Device memory that stays valid until it is asked for again; it keeps its largest size.
  void* scratch(size_t bytes);
  void sums_of_chunks(const Tensor& x, int64_t chunk, bool squared, const Tensor& out);

  // One kernel for a product and SwiGLU: whether it can be, and whether it should (GemmTuning). `trial` is
  // made to point to memory of its own while both are timed, for products that work in place.
  bool can_fuse(const Tensor& a, const Tensor& w, const Tensor& gate_up, const Tensor& h) const;
  bool prefers_fused(int layout, const Tensor& a, const Tensor& w, const Tensor& gate_up, const Tensor& h,
                     const std::function<void()>& fused, const std::function<void()>& pair,
                     Tensor* trial = nullptr);
  cuda::GemmSwiglu fused_arguments(const Tensor& a, const Tensor& w, cuda::BoxShape weight_box,
                                   const Tensor& gate_up, const Tensor& h);

  CudaDevice& device_;
  GemmTuning tuning_;
  bool hopper_;  // sm_90a's instructions are there
  std::unique_ptr<Gemm> gemm_;
  std::unique_ptr<TensorMaps> maps_;
  std::unique_ptr<AttentionEngine> attention_;
  Buffer scratch_;
};

}  // namespace llmft
