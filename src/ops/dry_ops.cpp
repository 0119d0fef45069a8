#include "llmft/ops/dry_ops.hpp"

#include "cuda_sizes.hpp"

namespace llmft {
namespace {

// Which ops have workspaces, and when they grow, as in ops/cuda.
class DryOps final : public Ops {
 public:
  DryOps(Device& device, MatmulMode mode)
      : device_(device), mode_(mode), cuda_(device.kind() == DeviceKind::cuda) {
    grow(gemm_, cuda_sizes::kGemmWorkspace);
  }

  Device& device() override { return device_; }
  void embed(Indices, const Tensor&, const Tensor&) override {}
  void embed_backward(Indices tokens, const Tensor&, const Tensor&) override {
    grow(scratch_, cuda_sizes::embed_scratch(tokens.size));
  }
  void norm(const Tensor&, const Tensor&, float, const Tensor&, const Tensor&, const Tensor&) override {}
  void norm_backward(const Tensor&, const Tensor& x, const Tensor&, const Tensor&, const Tensor&,
                     const Tensor&, const Tensor& dw) override {
    if (dw) grow(scratch_, cuda_sizes::norm_dw_scratch(x.rows, x.cols));
  }
  void matmul(Layout, const Tensor&, const Tensor&, const Tensor&, float, float, const Tensor&) override {}
  void rope(const Tensor&, Indices, const Tensor&, Direction) override {}

  void attention(const AttentionShape& shape, Indices, const Tensor& q, const Tensor&, const Tensor&,
                 const Tensor&, const Tensor&) override {
    if (takes_cudnn(shape, q)) grow(tables_, cuda_sizes::attention_most_tables(q.rows, kLists));
    if (in_halves(q) && shape.head_dim == 64) grow(halves_, cuda_sizes::attention_halves(shape, q.rows));
  }
  void attention_backward(const AttentionShape& shape, Indices, const Tensor& q, const Tensor&, const Tensor&,
                          const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          const Tensor&, const Rotation&) override {
    grow(delta_, cuda_sizes::attention_delta(q.rows, shape.heads));
    if (in_halves(q) && (shape.head_dim == 64 || shape.head_dim == 128))
      grow(halves_, cuda_sizes::attention_halves(shape, q.rows));
  }

  void swiglu(const Tensor&, const Tensor&) override {}
  void swiglu_backward(const Tensor&, const Tensor&, const Tensor&) override {}
  void matmul_swiglu(const Tensor&, const Tensor&, const Tensor&, const Tensor&) override {}
  void matmul_swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                              const Tensor&) override {}
  void gather_rows(const Tensor&, Indices, const Tensor&) override {}
  void scatter_rows(const Tensor&, Indices, const Tensor&) override {}
  void cross_entropy(const Tensor&, Indices, float, const Tensor&, LossMode, const Tensor&) override {}
  void convert(const Tensor&, const Tensor&, float) override {}
  void add(const Tensor&, const Tensor&) override {}
  void chunk_sum_squares(const Tensor&, int64_t chunk, const Tensor& out) override {
    grow(scratch_, cuda_sizes::sums_scratch(out.numel(), chunk));
  }
  void sum(const Tensor& x, const Tensor&) override {
    grow(scratch_, cuda_sizes::sums_scratch(1, x.numel()));
  }
  void advance_update(const UpdateRule&, const Tensor&, const Tensor&) override {}
  void adamw(const AdamWParams&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
             const Tensor&) override {}

 private:
  static constexpr int64_t kLists = 5;

  bool takes_cudnn(const AttentionShape& shape, const Tensor& q) const {
    return cuda_ && shape.head_dim == 64 && size_of(q.dtype) == 2;
  }
  bool in_halves(const Tensor& q) const { return q.dtype == DType::f32 && mode_ == MatmulMode::tf32; }
  void grow(Buffer& buffer, size_t bytes) {
    if (!cuda_ || buffer.bytes() >= bytes) return;
    buffer = Buffer();
    buffer = Buffer(device_, bytes, MemoryPart::workspace);
  }

  Device& device_;
  MatmulMode mode_;
  bool cuda_;
  Buffer gemm_, scratch_, tables_, delta_, halves_;
};

}  // namespace

std::unique_ptr<Ops> make_dry_ops(Device& device, MatmulMode mode) {
  return std::make_unique<DryOps>(device, mode);
}

}  // namespace llmft
