#include "cpu_ops.hpp"
#include "rows.hpp"

namespace llmft {

void CpuOps::embed(Indices tokens, const Tensor& table, const Tensor& x) {
  check(x.rows == tokens.size && x.cols == table.cols, "embed: shapes differ");
  check(x.dtype == table.dtype, "embed: dtypes differ");
  gather_rows(table, tokens, x);
}

void CpuOps::embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable) {
  check(dx.rows == tokens.size && dx.cols == dtable.cols, "embed_backward: shapes differ");
  float* row = scratch(0, dx.cols);
  visit_dtype(dx.dtype, [&]<class S>(S) {
    for (int64_t t = 0; t < dx.rows; ++t) {
      int32_t token = tokens.data[t];
      check(token >= 0 && token < dtable.rows, "embed_backward: token outside the table");
      const float* from = load(dx.row<S>(t), dx.cols, row);
      float* to = dtable.row<float>(token);
      for (int64_t c = 0; c < dx.cols; ++c) to[c] += from[c];
    }
  });
}

}  // namespace llmft
