#include "../shapes.hpp"
#include "cuda_ops.hpp"
#include "gemm.hpp"

namespace llmft {

void CudaOps::matmul(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float alpha,
                     float beta, const Tensor& c) {
  shapes::matmul(layout, a, b, d, beta, c);
  int64_t inner = layout != Layout::tn ? a.cols : a.rows;
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
