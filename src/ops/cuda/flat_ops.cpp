// Ops on whole buffers.
#include <vector>

#include "../shapes.hpp"
#include "cuda_ops.hpp"
#include "matrix.hpp"

namespace llmft {

void CudaOps::convert(const Tensor& from, const Tensor& to, float scale) {
  shapes::convert(from, to);
  cuda::convert(device_.stream(), matrix_of(from), matrix_of(to), scale);
  cuda_check(cudaGetLastError());
}

void CudaOps::convert_each(std::span<const Conversion> list) {
  std::vector<cuda::Conversion> together;
  for (const Conversion& c : list) {
    shapes::convert(c.from, c.to);
    cuda::Conversion item{matrix_of(c.from), matrix_of(c.to), c.scale};
    if (cuda::converts_together(item) && (together.empty() || together[0].to.type == item.to.type))
      together.push_back(item);
    else
      cuda::convert(device_.stream(), item.from, item.to, item.scale);
  }
  cuda::convert_together(device_.stream(), together.data(), static_cast<int>(together.size()));
  cuda_check(cudaGetLastError());
}

void CudaOps::add(const Tensor& from, const Tensor& to) {
  shapes::add(from, to);
  cuda::add(device_.stream(), matrix_of(from), matrix_of(to));
  cuda_check(cudaGetLastError());
}

void CudaOps::chunk_sum_squares(const Tensor& x, int64_t chunk, const Tensor& out) {
  shapes::chunk_sum_squares(x, chunk, out);
  sums_of_chunks(x, chunk, true, out);
}

void CudaOps::sum(const Tensor& x, const Tensor& out) {
  shapes::sum(x, out);
  if (x.numel() == 0)
    device_.zero(out.data, out.bytes());
  else
    sums_of_chunks(x, x.numel(), false, out);
}

void CudaOps::sums_of_chunks(const Tensor& x, int64_t chunk, bool squared, const Tensor& out) {
  int64_t count = out.numel();
  cuda::chunk_sums(device_.stream(), x.row<float>(0), x.numel(), chunk, count,
                   squared ? cuda::Term::square : cuda::Term::value, out.row<double>(0),
                   scratch(cuda::chunk_sums_scratch(count, chunk)));
  cuda_check(cudaGetLastError());
}

void CudaOps::advance_update(const UpdateRule& rule, const Tensor& sum_squares, const Tensor& state) {
  shapes::advance_update(sum_squares, state);
  cuda::advance_update(device_.stream(), rule, sum_squares.row<double>(0), sum_squares.numel(),
                       state.row<double>(0));
  cuda_check(cudaGetLastError());
}

void CudaOps::adamw(const AdamWParams& params, const Tensor& state, const Tensor& p, const Tensor& m,
                    const Tensor& v, const Tensor& grad, const Tensor& copy) {
  int64_t size = p.numel();
  shapes::adamw(state, p, m, v, grad, copy);
  if (size == 0) return;
  cuda::AdamW s{params.lr, params.beta1, params.beta2, params.eps, 1.0f - params.lr * params.weight_decay};
  cuda::adamw(device_.stream(), s, state.row<double>(0), size, f32_row(p), f32_row(m), f32_row(v),
              f32_row(grad), copy ? matrix_of(copy) : cuda::Matrix{});
  cuda_check(cudaGetLastError());
}

}  // namespace llmft
