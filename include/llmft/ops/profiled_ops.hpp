// Another backend's ops, each measured as a stretch of the device's profile, with the FLOPs and bytes that
// its arithmetic needs: 2 FLOPs a multiply-add of products and attention (other ops are memory's business and
// count none), bytes of every operand once. Which linear a product belongs to is told by its shape.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llmft/device/profile.hpp"
#include "llmft/ops/ops.hpp"

namespace llmft {

// W [rows, cols] with `extension` adapter rows and columns (ops/ops.hpp).
struct NamedLinear {
  std::string name;
  int64_t rows;
  int64_t cols;
  int64_t extension;
};

class ProfiledOps final : public Ops {
 public:
  ProfiledOps(std::unique_ptr<Ops> inner, std::vector<NamedLinear> linears);

  // Of the micro-batches to come: how many query-key pairs attention looks at, sum of L (L + 1) / 2 over
  // documents.
  void set_attention_pairs(double pairs) { pairs_ = pairs; }

  Device& device() override { return inner_->device(); }
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
  ProfileScope scope(std::string_view group, double flops, double bytes) {
    return {inner_->device().profile(), group, flops, bytes};
  }
  std::string product_name(Layout layout, const Tensor& b, const Tensor& d) const;

  std::unique_ptr<Ops> inner_;
  std::vector<NamedLinear> linears_;
  double pairs_ = 0;
};

}  // namespace llmft
