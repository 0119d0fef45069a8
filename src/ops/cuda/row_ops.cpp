// Ops on rows: shapes are checked here, the arithmetic is in the kernels' files. Weights of norms and lists
// of f32 per row are single rows, so their ld does not matter.
#include "cuda_ops.hpp"
#include "matrix.hpp"

namespace llmft {

void CudaOps::embed(Indices tokens, const Tensor& table, const Tensor& x) {
  check(x.rows == tokens.size && x.cols == table.cols, "embed: shapes differ");
  check(x.dtype == table.dtype, "embed: dtypes differ");
  gather_rows(table, tokens, x);
}

void CudaOps::embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable) {
  check(dx.rows == tokens.size && dx.cols == dtable.cols, "embed_backward: shapes differ");
  check(dtable.dtype == DType::f32, "embed_backward: the table's gradient is not f32");
  if (dx.rows == 0) return;
  size_t bytes = cuda::embed_backward_scratch(dx.rows, dtable.rows);
  cuda::embed_backward(device_.stream(), tokens.data, matrix_of(dx), matrix_of(dtable), scratch(bytes),
                       bytes);
  cuda_check(cudaGetLastError());
}

void CudaOps::gather_rows(const Tensor& x, Indices rows, const Tensor& y) {
  check(y.rows == rows.size && y.cols == x.cols && y.dtype == x.dtype, "gather_rows: shapes differ");
  cuda::gather_rows(device_.stream(), matrix_of(x), rows.data, matrix_of(y));
  cuda_check(cudaGetLastError());
}

void CudaOps::scatter_rows(const Tensor& y, Indices rows, const Tensor& x) {
  check(y.rows == rows.size && y.cols == x.cols && y.dtype == x.dtype, "scatter_rows: shapes differ");
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
  check(w.numel() == width && y.rows == x.rows && y.cols == width + tail && rstd.numel() == x.rows &&
            (!a || a.cols == width),
        "norm: shapes differ");
  check(w.dtype == x.dtype && y.dtype == x.dtype, "norm: dtypes differ");
  if (x.rows == 0) return;
  cuda::norm(device_.stream(), matrix_of(x), w.data, eps, matrix_of(y), f32_row(rstd));
  cuda_check(cudaGetLastError());
  if (tail != 0) matmul(Layout::nt, y.col_range(0, width), a, y.col_range(width, tail), 1, 0, {});
}

void CudaOps::norm_backward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& rstd,
                            const Tensor& b, const Tensor& dx, const Tensor& dw) {
  int64_t width = x.cols, tail = b ? b.cols : 0;
  check(w.numel() == width && dy.rows == x.rows && dy.cols == width && rstd.numel() == x.rows &&
            dx.rows == x.rows && dx.cols == width + tail && (!b || b.rows == width) &&
            (!dw || dw.numel() == width),
        "norm_backward: shapes differ");
  check(w.dtype == x.dtype && dy.dtype == x.dtype && dx.dtype == x.dtype, "norm_backward: dtypes differ");
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
  int64_t dim = table.cols;
  check(positions.size == x.rows && dim > 0 && dim % 2 == 0 && x.cols % dim == 0, "rope: shapes differ");
  check(table.dtype == DType::f32, "rope: the table is not f32");
  cuda::rope(device_.stream(), matrix_of(x), matrix_of(x), positions.data, matrix_of(table),
             direction == Direction::forward ? 1.0f : -1.0f);
  cuda_check(cudaGetLastError());
}

void CudaOps::swiglu(const Tensor& gate_up, const Tensor& h) {
  check(gate_up.rows == h.rows && gate_up.cols == 2 * h.cols, "swiglu: shapes differ");
  check(gate_up.dtype == h.dtype, "swiglu: dtypes differ");
  cuda::swiglu(device_.stream(), matrix_of(gate_up), matrix_of(h));
  cuda_check(cudaGetLastError());
}

void CudaOps::swiglu_backward(const Tensor& dh, const Tensor& gate_up, const Tensor& h) {
  check(gate_up.rows == dh.rows && gate_up.cols == 2 * dh.cols, "swiglu_backward: shapes differ");
  check(gate_up.dtype == dh.dtype, "swiglu_backward: dtypes differ");
  check(!h || (h.rows == dh.rows && h.cols == dh.cols && h.dtype == dh.dtype), "swiglu_backward: h differs");
  cuda::swiglu_backward(device_.stream(), matrix_of(dh), matrix_of(gate_up), matrix_of(h));
  cuda_check(cudaGetLastError());
}

void CudaOps::cross_entropy(const Tensor& logits, Indices targets, float scale, const Tensor& loss,
                            LossMode mode, const Tensor& loss_scale) {
  check(targets.size == logits.rows && loss.numel() == logits.rows, "cross_entropy: shapes differ");
  if (logits.rows == 0) return;
  cuda::cross_entropy(device_.stream(), matrix_of(logits), targets.data, scale,
                      loss_scale ? loss_scale.row<double>(0) : nullptr, f32_row(loss),
                      mode == LossMode::loss_and_gradient);
  cuda_check(cudaGetLastError());
}

}  // namespace llmft
