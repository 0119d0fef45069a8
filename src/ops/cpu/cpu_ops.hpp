// The CPU backend: every member function is defined in the file of its name. All arithmetic is f32 (sums over
// whole buffers f64), rounded once on writing; every sum runs in an order fixed by the shapes alone, so
// results repeat bit for bit.
#pragma once

#include <array>

#include "llmft/ops/ops.hpp"

namespace llmft {

class CpuOps final : public Ops {
 public:
  CpuOps(Device& device, MatmulMode mode, int threads);

  Device& device() override { return device_; }

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
  void gather_rows(const Tensor& x, Indices rows, const Tensor& y) override;
  void scatter_rows(const Tensor& y, Indices rows, const Tensor& x) override;
  void cross_entropy(const Tensor& logits, Indices targets, float scale, const Tensor& loss, LossMode mode,
                     const Tensor& loss_scale) override;
  void convert(const Tensor& from, const Tensor& to, float scale) override;
  void add(const Tensor& from, const Tensor& to) override;
  void chunk_sum_squares(const Tensor& x, int64_t chunk, const Tensor& out) override;
  void sum(const Tensor& x, const Tensor& out) override;
  void advance_update(const UpdateRule& rule, const Tensor& sum_squares, const Tensor& state) override;
  void adamw(const AdamWParams& params, const Tensor& state, const Tensor& p, const Tensor& m,
             const Tensor& v, const Tensor& grad, const Tensor& copy) override;

 private:
  // `count` floats that stay valid until the slot is asked for again. Slots keep their largest size, so a
  // step of the training loop allocates nothing once each shape was seen.
  float* scratch(size_t slot, int64_t count);
  // x as f32: x itself, or its copy in a scratch slot.
  Tensor as_f32(const Tensor& x, size_t slot);
  // x itself where it is f32, else an f32 matrix of its shape in a scratch slot, not filled.
  Tensor f32_like(const Tensor& x, size_t slot);

  static UpdateState& update_state(const Tensor& state) {
    check(state.numel() == kUpdateFields, "not an update state");
    return *reinterpret_cast<UpdateState*>(state.row<double>(0));
  }

  // D = alpha op(A) op(B) + beta D on f32 matrices, by OpenBLAS.
  void product(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float alpha, float beta);

  Device& device_;
  MatmulMode mode_;
  int threads_;
  std::array<Buffer, 12> scratch_;
};

}  // namespace llmft
