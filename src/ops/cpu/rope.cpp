#include "../shapes.hpp"
#include "cpu_ops.hpp"
#include "rows.hpp"

namespace llmft {

void CpuOps::rope(const Tensor& x, Indices positions, const Tensor& table, Direction direction) {
  int64_t dim = table.cols, half = dim / 2;
  shapes::rope(x, positions, table);
  float sign = direction == Direction::forward ? 1.0f : -1.0f;
  float* scratch_row = scratch(0, x.cols);
  visit_dtype(x.dtype, [&]<class S>(S) {
    for (int64_t t = 0; t < x.rows; ++t) {
      int32_t position = positions.data[t];
      check(position >= 0 && position < table.rows, "rope: position outside the table");
      const float* cos = table.row<float>(position);
      const float* sin = cos + half;
      load(x.row<S>(t), x.cols, scratch_row);
      float* row = stage(x.row<S>(t), scratch_row);
      for (float* head = row; head < row + x.cols; head += dim) {
        float* low = head;
        float* high = head + half;
        for (int64_t i = 0; i < half; ++i) {
          float a = low[i], b = high[i], s = sign * sin[i];
          low[i] = a * cos[i] - b * s;
          high[i] = b * cos[i] + a * s;
        }
      }
      store(row, x.row<S>(t), x.cols);
    }
  });
}

}  // namespace llmft
