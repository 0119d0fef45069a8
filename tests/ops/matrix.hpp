// A matrix of doubles on the host: what op tests make, compare and compute their references in.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "llmft/tensor/dtype.hpp"

namespace llmft::test {

struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(int64_t r, int64_t c, double fill = 0)
      : rows(r), cols(c), values(static_cast<size_t>(r * c), fill) {}

  double& operator()(int64_t i, int64_t j) { return values[static_cast<size_t>(i * cols + j)]; }
  double operator()(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * cols + j)]; }
  // Element j of a matrix with one row.
  double& operator[](int64_t j) { return values[static_cast<size_t>(j)]; }
  double operator[](int64_t j) const { return values[static_cast<size_t>(j)]; }

  Matrix row_range(int64_t first, int64_t count) const {
    Matrix part(count, cols);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < cols; ++j) part(i, j) = (*this)(first + i, j);
    return part;
  }
  Matrix col_range(int64_t first, int64_t count) const {
    Matrix part(rows, count);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < count; ++j) part(i, j) = (*this)(i, first + j);
    return part;
  }
  void put(int64_t row, int64_t col, const Matrix& part) {
    for (int64_t i = 0; i < part.rows; ++i)
      for (int64_t j = 0; j < part.cols; ++j) (*this)(row + i, col + j) = part(i, j);
  }
  Matrix map(const std::function<double(double)>& f) const {
    Matrix result = *this;
    for (double& value : result.values) value = f(value);
    return result;
  }
};

// The nearest value of the dtype.
inline double rounded_to(DType type, double x) {
  return visit_dtype(type,
                     [&]<class S>(S) -> double { return to_float(from_float<S>(static_cast<float>(x))); });
}

// The largest relative error of one rounding to nearest: half the distance of 1 to its successor.
inline double unit_roundoff(DType type) {
  return type == DType::f32 ? 0x1p-24 : type == DType::bf16 ? 0x1p-8 : 0x1p-11;
}

inline double norm_of(const Matrix& x) {
  double squares = 0;
  for (double value : x.values) squares += value * value;
  return std::sqrt(squares);
}

// ||got - want||; NaN where anything is.
inline double distance(const Matrix& got, const Matrix& want) {
  double squares = 0;
  for (size_t i = 0; i < want.values.size(); ++i)
    squares += (got.values[i] - want.values[i]) * (got.values[i] - want.values[i]);
  return std::sqrt(squares);
}

}  // namespace llmft::test
