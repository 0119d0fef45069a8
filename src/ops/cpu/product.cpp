// The one file that knows OpenBLAS. Its thread count is a setting of the whole process, so each product makes
// sure of its own.
#include <algorithm>

#include <cblas.h>

#include "cpu_ops.hpp"

namespace llmft {

void CpuOps::product(Layout layout, const Tensor& a, const Tensor& b, const Tensor& d, float alpha,
                     float beta) {
  auto blas_int = [](int64_t n) { return static_cast<blasint>(n); };
  auto stride = [&](const Tensor& x) { return blas_int(std::max<int64_t>(x.ld, 1)); };
  if (openblas_get_num_threads() != threads_) openblas_set_num_threads(threads_);
  cblas_sgemm(CblasRowMajor, layout == Layout::tn ? CblasTrans : CblasNoTrans,
              layout == Layout::nt ? CblasTrans : CblasNoTrans, blas_int(d.rows), blas_int(d.cols),
              blas_int(layout == Layout::tn ? a.rows : a.cols), alpha, a.row<float>(0), stride(a),
              b.row<float>(0), stride(b), beta, d.row<float>(0), stride(d));
}

}  // namespace llmft
