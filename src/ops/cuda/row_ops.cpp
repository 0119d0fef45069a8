// Ops on rows: shapes are checked here, the arithmetic is in the kernels' files. Weights of norms and lists
// of f32 per row are single rows, so their ld does not matter.
#include "../shapes.hpp"
#include "cuda_ops.hpp"
#include "matrix.hpp"

namespace llmft {

void CudaOps::embed(Indices tokens, const Tensor& table, const Tensor& x) {
  shapes::embed(tokens, table, x);
  gather_rows(table, tokens, x);
}

void CudaOps::embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable) {
  shapes::embed_backward(tokens, dx, dtable);
  if (dx.rows == 0) return;
  size_t bytes = cuda::embed_backward_scratch(dx.rows, dtable.rows);
  cuda::embed_backward(device_.stream(), tokens.data, matrix_of(dx), matrix_of(dtable), scratch(bytes),
                       bytes);
  cuda_check(cudaGetLastError());
}

void CudaOps::gather_rows(const Tensor& x, Indices rows, const Tensor& y) {
  shapes::gather_rows(x, rows, y);
  cuda::gather_rows(device_.stream(), matrix_of(x), rows.data, matrix_of(y));
  cuda_check(cudaGetLastError());
}

void CudaOps::scatter_rows(const Tensor& y, Indices rows, const Tensor& x) {
  shapes::scatter_rows(y, rows, x);
  if (x.numel() == 0) return;
  size_t element = size_of(x.dtype);
  cuda_check(cudaMemset2DAsync(x.data, static_cast<size_t>(x.ld) * element, 0,
                               static_cast<size_t>(x.cols) * element, static_cast<size_t>(x.rows),
                               device_.stream()));
  cuda::scatter_rows(device_.stream(), matrix_of(y), rows.data, matrix_of(x));
  cuda_check(cudaGetLastError());
}

// The tail is a product of the columns just written, so it sees the rounded values.
void CudaOps::norm(const Tensor& x, const Tensor& w, float eps, const Tensor& a, const Tensor& y,
                   const Tensor& rstd) {
  int64_t width = x.cols, tail = a ? a.rows : 0;
  shapes::norm(x, w, a, y, rstd);
  if (x.rows == 0) return;
  cuda::norm(device_.stream(), matrix_of(x), w.data, eps, matrix_of(y), f32_row(rstd));
  cuda_check(cudaGetLastError());
  if (tail != 0) matmul(Layout::nt, y.col_range(0, width), a, y.col_range(width, tail), 1, 0, {});
}

void CudaOps::norm_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& rstd,
                            const Tensor& b, const Tensor& dx, const Tensor& dw) {
  int64_t width = x.cols, tail = b ? b.cols : 0;
  shapes::norm_backward(dy, x, w, rstd, b, dx, dw);
  if (x.rows == 0) return;
  cudaStream_t stream = device_.stream();
  cuda::norm_dx(stream, matrix_of(dy), matrix_of(x), w.data, f32_row(rstd), matrix_of(dx));
  if (dw)
    cuda::norm_dw(stream, matrix_of(dy), matrix_of(x), f32_row(rstd), f32_row(dw),
                  scratch(cuda::norm_dw_scratch(x.rows, width)));
  cuda_check(cudaGetLastError());
  if (tail != 0) matmul(Layout::nn, dx.col_range(0, width), b, dx.col_range(width, tail), 1, 0, {});
}

void CudaOps::rope(const Tensor& x, Indices positions, const Tensor& table, Direction direction) {
  shapes::rope(x, positions, table);
  cuda::rope(device_.stream(), matrix_of(x), matrix_of(x), positions.data, matrix_of(table),
             direction == Direction::forward ? 1.0f : -1.0f);
  cuda_check(cudaGetLastError());
}

void CudaOps::swiglu(const Tensor& gate_up, const Tensor& h) {
  shapes::swiglu(gate_up, h);
  cuda::swiglu(device_.stream(), matrix_of(gate_up), matrix_of(h));
  cuda_check(cudaGetLastError());
}

void CudaOps::swiglu_backward(const Tensor& dh, const Tensor& gate_up, const Tensor& h) {
  shapes::swiglu_backward(dh, gate_up, h);
  cuda::swiglu_backward(device_.stream(), matrix_of(dh), matrix_of(gate_up), matrix_of(h));
  cuda_check(cudaGetLastError());
}

void CudaOps::cross_entropy(const Tensor& logits, Indices targets, float scale, const Tensor& loss,
                            LossMode mode, const Tensor& loss_scale) {
  shapes::cross_entropy(logits, targets, loss);
  if (logits.rows == 0) return;
  cuda::cross_entropy(device_.stream(), matrix_of(logits), targets.data, scale,
                      loss_scale ? loss_scale.row<double>(0) : nullptr, f32_row(loss),
                      mode == LossMode::loss_and_gradient);
  cuda_check(cudaGetLastError());
}

}  // namespace llmft
