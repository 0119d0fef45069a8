// Rows picked and put back: copies of bytes, no dtype needed.
#include <cstring>

#include "../shapes.hpp"
#include "cpu_ops.hpp"

namespace llmft {
namespace {

std::byte* bytes_of_row(const Tensor& x, int64_t i) {
  return static_cast<std::byte*>(x.data) + static_cast<size_t>(i * x.ld) * size_of(x.dtype);
}

}  // namespace

void CpuOps::gather_rows(const Tensor& x, Indices rows, const Tensor& y) {
  shapes::gather_rows(x, rows, y);
  size_t bytes = static_cast<size_t>(x.cols) * size_of(x.dtype);
  for (int64_t i = 0; i < rows.size; ++i) {
    check(rows.data[i] >= 0 && rows.data[i] < x.rows, "gather_rows: no such row");
    std::memcpy(bytes_of_row(y, i), bytes_of_row(x, rows.data[i]), bytes);
  }
}

void CpuOps::scatter_rows(const Tensor& y, Indices rows, const Tensor& x) {
  shapes::scatter_rows(y, rows, x);
  size_t bytes = static_cast<size_t>(x.cols) * size_of(x.dtype);
  for (int64_t i = 0; i < x.rows; ++i) std::memset(bytes_of_row(x, i), 0, bytes);
  for (int64_t i = 0; i < rows.size; ++i) {
    check(rows.data[i] >= 0 && rows.data[i] < x.rows, "scatter_rows: no such row");
    std::memcpy(bytes_of_row(x, rows.data[i]), bytes_of_row(y, i), bytes);
  }
}

}  // namespace llmft
