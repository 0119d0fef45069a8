// Which attention runs. On tensor cores, of 16 bits and of f32 in tf32 mode: this project's kernels on warp
// groups on Hopper, for heads of 64, else forward cuDNN's where it takes the tensors, else this project's on
// warps. Else its plain kernels, which take everything. All read and write the same lse.
#include "attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "../shapes.hpp"
#include "attention_cudnn.hpp"
#include "attention_kernels.hpp"
#include "matrix.hpp"

namespace llmft {
namespace {

void check_width(const AttentionShape& shape) {
  if (shape.head_dim > cuda::kMostHeadDim)
    user_error(
        "--device cuda: attention heads of {} columns are wider than {}, the most that runs on the GPU; "
        "use --device cpu",
        shape.head_dim, cuda::kMostHeadDim);
}

cuda::AttentionSizes sizes_of(const AttentionShape& shape, Indices cu_seqlens, int64_t tokens) {
  return {.tokens = tokens,
          .documents = cu_seqlens.size - 1,
          .cu_seqlens = cu_seqlens.data,
          .heads = static_cast<int>(shape.heads),
          .kv_heads = static_cast<int>(shape.kv_heads),
          .head_dim = static_cast<int>(shape.head_dim),
          .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim))};
}

// LLMFT_ATTENTION=plain keeps tensor cores out of the project's own kernels, to compare with.
bool tensor_cores_wanted() {
  const char* wanted = std::getenv("LLMFT_ATTENTION");
  return wanted == nullptr || std::string_view(wanted) != "plain";
}

// What was measured to be fastest. LLMFT_ATTENTION_BACKWARD=groups, halves or warps, to compare.
cuda::BackwardProducts backward_products(bool hopper, DType type, int64_t head_dim) {
  using cuda::BackwardProducts;
  auto by_warps = type == DType::f32 ? BackwardProducts::warps_in_halves : BackwardProducts::warps;
  const char* value = std::getenv("LLMFT_ATTENTION_BACKWARD");
  std::string_view wanted = value == nullptr ? "groups" : value;
  if (wanted == "warps") return BackwardProducts::warps;
  return wanted == "groups" && hopper && head_dim == 64 ? BackwardProducts::groups : by_warps;
}

// On warp groups where they are, for heads of 64: 12 to 15 % faster alone than the library's kernels. Else
// the library's where they take the tensors, else those of warps. LLMFT_ATTENTION_FORWARD=groups or library,
// to compare.
cuda::ForwardProducts forward_products(bool hopper, int64_t head_dim) {
  const char* value = std::getenv("LLMFT_ATTENTION_FORWARD");
  bool wanted = value == nullptr || std::string_view(value) == "groups";
  return wanted && hopper && head_dim == 64 ? cuda::ForwardProducts::groups : cuda::ForwardProducts::warps;
}

class GpuAttention final : public AttentionEngine {
 public:
  GpuAttention(CudaDevice& device, MatmulMode mode)
      : device_(device), mode_(mode), hopper_(is_hopper(device.ordinal())), cudnn_(device) {}

  void attention(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                 const Tensor& v, const Tensor& out, const Tensor& lse) override {
    shapes::attention(shape, cu_seqlens, q, k, v, out, lse);
    check_width(shape);
    if (q.rows == 0) return;
    cuda::ForwardProducts products = forward_products(hopper_, shape.head_dim);
    if (products == cuda::ForwardProducts::warps && cudnn_.forward({shape, cu_seqlens, q, k, v, out, lse}))
      return;
    cuda::AttentionSizes sizes = sizes_of(shape, cu_seqlens, q.rows);
    if (on_tensor_cores(shape, {q, k, v, out})) {
      bool halves = q.dtype == DType::f32 && products == cuda::ForwardProducts::groups;
      if (halves) have_halves(shape, q.rows);
      cuda::tensor_attention(device_.stream(), sizes, matrix_of(q), matrix_of(k), matrix_of(v),
                             matrix_of(out), matrix_of(lse), products, halves_.data());
    } else {
      cuda::attention(device_.stream(), sizes, matrix_of(q), matrix_of(k), matrix_of(v), matrix_of(out),
                      matrix_of(lse));
    }
    cuda_check(cudaGetLastError());
  }

  void attention_backward(const AttentionShape& shape, Indices cu_seqlens, const Tensor& q, const Tensor& k,
                          const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& dout,
                          const Tensor& dq, const Tensor& dk, const Tensor& dv,
                          const Rotation& rotation) override {
    shapes::attention_backward(shape, cu_seqlens, q, k, v, out, lse, dout, dq, dk, dv);
    check_width(shape);
    if (q.rows == 0) return;
    cuda::AttentionSizes sizes = sizes_of(shape, cu_seqlens, q.rows);
    size_t bytes = cuda_sizes::attention_delta(q.rows, shape.heads);
    if (delta_.bytes() < bytes) {
      delta_ = Buffer();
      delta_ = Buffer(device_, bytes, MemoryPart::workspace);
    }
    auto* data = static_cast<float*>(delta_.data());
    bool rotated = false;
    auto products = backward_products(hopper_, q.dtype, shape.head_dim);
    if (on_tensor_cores(shape, {q, k, v, out, dout, dq, dk, dv})) {
      if (q.dtype == DType::f32 && products != cuda::BackwardProducts::warps) have_halves(shape, q.rows);
      cuda::RotationTable table;
      if (rotation.table && rotation.table.ld % 2 == 0)
        table = {rotation.positions.data, static_cast<const float*>(rotation.table.data), rotation.table.ld,
                 rotation.table.rows};
      rotated = cuda::tensor_attention_backward(device_.stream(), sizes, matrix_of(q), matrix_of(k),
                                                matrix_of(v), matrix_of(out), matrix_of(lse), matrix_of(dout),
                                                matrix_of(dq), matrix_of(dk), matrix_of(dv), data, products,
                                                halves_.data(), table);
    } else {
      cuda::attention_backward(device_.stream(), sizes, matrix_of(q), matrix_of(k), matrix_of(v),
                               matrix_of(out), matrix_of(lse), matrix_of(dout), matrix_of(dq), matrix_of(dk),
                               matrix_of(dv), data);
    }
    for (const Tensor& x : {dq, dk})
      if (rotation.table && !rotated)
        cuda::rope(device_.stream(), matrix_of(x), matrix_of(x), rotation.positions.data,
                   matrix_of(rotation.table), -1);
    cuda_check(cudaGetLastError());
  }

 private:
  bool on_tensor_cores(const AttentionShape& shape, std::initializer_list<Tensor> tensors) const {
    static const bool wanted = tensor_cores_wanted();
    if (!wanted || (tensors.begin()->dtype == DType::f32 && mode_ != MatmulMode::tf32)) return false;
    return std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& x) {
      return cuda::tensor_attention_takes(static_cast<int>(shape.head_dim), matrix_of(x));
    });
  }

  void have_halves(const AttentionShape& shape, int64_t tokens) {
    size_t bytes = cuda_sizes::attention_halves(shape, tokens);
    if (halves_.bytes() >= bytes) return;
    halves_ = Buffer();
    halves_ = Buffer(device_, bytes, MemoryPart::workspace);
  }

  CudaDevice& device_;
  MatmulMode mode_;
  bool hopper_;
  CudnnAttention cudnn_;
  Buffer delta_;
  Buffer halves_;
};

}  // namespace

bool is_hopper(int ordinal) {
  int major = 0, minor = 0;
  cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal));
  cuda_check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal));
  return major == 9 && minor == 0;
}

std::unique_ptr<AttentionEngine> make_attention_engine(CudaDevice& device, MatmulMode mode) {
  return std::make_unique<GpuAttention>(device, mode);
}

}  // namespace llmft
