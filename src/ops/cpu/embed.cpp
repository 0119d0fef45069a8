#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "rows.hpp"

namespace llmft {

void CpuOps::embed(Indices tokens, const Tensor& table, const Tensor& x) {
  shapes::embed(tokens, table, x);
  gather_rows(table, tokens, x);
}

void CpuOps::embed_backward(Indices tokens, const Tensor& dx, const Tensor& dtable) {
  shapes::embed_backward(tokens, dx, dtable);
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
