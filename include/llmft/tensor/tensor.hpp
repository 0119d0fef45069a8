// A view of a matrix in device or host memory: rows x cols elements, rows `ld` elements apart (ld >= cols). A
// vector is one row. Views never own and are cheap to copy; slices of rows or columns are views too. An empty
// view (data null) stands for "not wanted" where an op says so.
#pragma once

#include <cstdint>

#include "llmft/tensor/dtype.hpp"

namespace llmft {

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ld = 0;

  explicit operator bool() const { return data != nullptr; }
  int64_t numel() const { return rows * cols; }
  bool contiguous() const { return ld == cols || rows <= 1; }
  size_t bytes() const {
    return static_cast<size_t>(numel()) * size_of(dtype);
  }  // of the elements, gaps not counted

  // Rows [first, first + count).
  Tensor row_range(int64_t first, int64_t count) const {
    check(first >= 0 && count >= 0 && first + count <= rows, "row_range outside the tensor");
    return {static_cast<std::byte*>(data) + static_cast<size_t>(first * ld) * size_of(dtype), dtype, count,
            cols, ld};
  }
  // Columns [first, first + count).
  Tensor col_range(int64_t first, int64_t count) const {
    check(first >= 0 && count >= 0 && first + count <= cols, "col_range outside the tensor");
    return {static_cast<std::byte*>(data) + static_cast<size_t>(first) * size_of(dtype), dtype, rows, count,
            ld};
  }
  // The same elements as one row; the view must be contiguous.
  Tensor flat() const {
    check(contiguous(), "flat view of a strided tensor");
    return {data, dtype, 1, numel(), numel()};
  }
  // The elements of a contiguous view under another shape.
  Tensor reshaped(int64_t new_rows, int64_t new_cols) const {
    check(contiguous() && new_rows * new_cols == numel(), "reshape changes the number of elements");
    return {data, dtype, new_rows, new_cols, new_cols};
  }

  // Host access; the dtype must be T's.
  template <class T>
  T* row(int64_t i) const {
    check(dtype_of<T>::value == dtype, "tensor read as another type");
    return static_cast<T*>(data) + i * ld;
  }
};

template <class T>
Tensor matrix_view(T* data, int64_t rows, int64_t cols) {
  return {data, dtype_of<T>::value, rows, cols, cols};
}

// int32 indices in device memory: tokens, positions, row lists.
struct Indices {
  const int32_t* data = nullptr;
  int64_t size = 0;
};

}  // namespace llmft
