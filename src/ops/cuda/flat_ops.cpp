// Ops on whole buffers.
#include "cuda_ops.hpp"
#include "matrix.hpp"

namespace llmft {

void CudaOps::convert(const Tensor& from, const Tensor& to, float scale) {
  check(from.rows == to.rows && from.cols == to.cols, "convert: shapes differ");
  cuda::convert(device_.stream(), matrix_of(from), matrix_of(to), scale);
  cuda_check(cudaGetLastError());
}

void CudaOps::add(const Tensor& from, const Tensor& to) {
  check(from.rows == to.rows && from.cols == to.cols, "add: shapes differ");
  check(from.dtype == DType::f32 && to.dtype == DType::f32, "add: not f32");
  cuda::add(device_.stream(), matrix_of(from), matrix_of(to));
  cuda_check(cudaGetLastError());
}

void CudaOps::chunk_sum_squares(const Tensor& x, int64_t chunk, std::span<double> out) {
  check(x.contiguous() && chunk > 0, "chunk_sum_squares: not a flat row in chunks");
  int64_t size = x.numel();
  check(static_cast<int64_t>(out.size()) == (size + chunk - 1) / chunk,
        "chunk_sum_squares: wrong number of chunks");
  if (size != 0) sums_of_chunks(x, chunk, true, out);
}

double CudaOps::sum(const Tensor& x) {
  check(x.contiguous(), "sum: not a flat row");
  double total = 0;
  if (x.numel() != 0) sums_of_chunks(x, x.numel(), false, std::span(&total, 1));
  return total;
}

void CudaOps::sums_of_chunks(const Tensor& x, int64_t chunk, bool squared, std::span<double> out) {
  auto count = static_cast<int64_t>(out.size());
  size_t partial_bytes = cuda::chunk_sums_scratch(count, chunk);
  auto* results = static_cast<double*>(scratch(out.size_bytes() + partial_bytes));
  cuda::chunk_sums(device_.stream(), x.row<float>(0), x.numel(), chunk, count,
                   squared ? cuda::Term::square : cuda::Term::value, results, results + count);
  cuda_check(cudaGetLastError());
  device_.copy_to_host(out.data(), results, out.size_bytes());
  device_.synchronize();
}

void CudaOps::adamw(const AdamWParams& params, const Tensor& p, const Tensor& m, const Tensor& v,
                    const Tensor& grad) {
  int64_t size = p.numel();
  check(m.numel() == size && v.numel() == size && grad.numel() == size, "adamw: sizes differ");
  check(p.contiguous() && m.contiguous() && v.contiguous() && grad.contiguous(), "adamw: not flat rows");
  if (size == 0) return;
  cuda::AdamW s{params.lr,
                params.beta1,
                params.beta2,
                params.eps,
                1.0f - params.lr * params.weight_decay,
                params.correction1,
                params.correction2,
                params.grad_scale};
  cuda::adamw(device_.stream(), s, size, f32_row(p), f32_row(m), f32_row(v), f32_row(grad));
  cuda_check(cudaGetLastError());
}

}  // namespace llmft
