#include "cuda_ops.hpp"
#include "gemm.hpp"

namespace llmft {

void CudaOps::matmul(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float alpha,
                     float beta, const Tensor& c) {
  bool a_rows = layout != Layout::tn, b_rows = layout == Layout::nt;  // M or N counts rows, not columns
  int64_t inner = a_rows ? a.cols : a.rows;
  check((a_rows ? a.rows : a.cols) == d.rows && (b_rows ? b.rows : b.cols) == d.cols &&
            (b_rows ? b.cols : b.rows) == inner,
        "matmul: shapes differ");
  check(a.dtype == b.dtype && (d.dtype == a.dtype || d.dtype == DType::f32), "matmul: dtypes differ");
  if (beta != 0) check(c.rows == d.rows && c.cols == d.cols && c.dtype == d.dtype, "matmul: C is not like D");
  if (d.numel() == 0) return;
  if (inner != 0) {
    gemm_->run({layout, a, b, beta != 0 ? c : d, d, alpha, beta});
  } else if (beta != 0) {
    convert(c, d, beta);
  } else {
    size_t element = size_of(d.dtype);
    cuda_check(cudaMemset2DAsync(d.data, static_cast<size_t>(d.ld) * element, 0,
                                 static_cast<size_t>(d.cols) * element, static_cast<size_t>(d.rows),
                                 device_.stream()));
  }
}

}  // namespace llmft
