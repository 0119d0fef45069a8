#include <numeric>
#include <vector>

#include <doctest/doctest.h>

#include "llmft/tensor/tensor.hpp"

using namespace llmft;

namespace {

struct Grid {
  std::vector<float> values = std::vector<float>(60);
  Tensor view;  // 5 x 10, rows 12 apart; element (i, j) is 12 i + j
  Grid() : view{values.data(), DType::f32, 5, 10, 12} { std::iota(values.begin(), values.end(), 0.0f); }
};

}  // namespace

TEST_CASE("ranges of rows and columns are views of the same elements") {
  Grid grid;
  Tensor part = grid.view.row_range(1, 3).col_range(4, 5);
  CHECK(part.rows == 3);
  CHECK(part.cols == 5);
  CHECK(part.ld == 12);
  CHECK(part.numel() == 15);
  CHECK(part.bytes() == 60);
  for (int64_t i = 0; i < part.rows; ++i)
    for (int64_t j = 0; j < part.cols; ++j)
      CHECK(part.row<float>(i)[j] == static_cast<float>(12 * (i + 1) + j + 4));
  part.row<float>(0)[0] = -1;
  CHECK(grid.values[16] == -1);
  CHECK(grid.view.row_range(5, 0).numel() == 0);
  CHECK(grid.view.col_range(10, 0).numel() == 0);
}

TEST_CASE("16-bit elements are two bytes apart") {
  std::vector<Bf16> values(12);
  Tensor view = matrix_view(values.data(), 3, 4);
  CHECK(view.dtype == DType::bf16);
  CHECK(view.row_range(1, 1).col_range(2, 2).data == &values[6]);
  CHECK(view.bytes() == 24);
}

TEST_CASE("a view reaches no further than its tensor") {
  Grid grid;
  CHECK_THROWS_AS(grid.view.row_range(3, 3), InternalError);
  CHECK_THROWS_AS(grid.view.row_range(-1, 1), InternalError);
  CHECK_THROWS_AS(grid.view.col_range(9, 2), InternalError);
  CHECK_THROWS_AS(grid.view.row_range(0, -1), InternalError);
  CHECK_THROWS_AS(grid.view.row<Bf16>(0), InternalError);
}

TEST_CASE("only contiguous views have another shape") {
  Grid grid;
  CHECK_FALSE(grid.view.contiguous());
  CHECK_THROWS_AS(grid.view.flat(), InternalError);
  CHECK_THROWS_AS(grid.view.reshaped(10, 5), InternalError);
  CHECK(grid.view.row_range(2, 1).contiguous());  // one row, however far the next would be
  CHECK(grid.view.row_range(2, 1).flat().numel() == 10);

  Tensor whole = matrix_view(grid.values.data(), 5, 12);
  CHECK(whole.contiguous());
  CHECK(whole.flat().cols == 60);
  CHECK(whole.flat().rows == 1);
  CHECK(whole.reshaped(20, 3).row<float>(19)[2] == 59.0f);
  CHECK_THROWS_AS(whole.reshaped(7, 9), InternalError);
}

TEST_CASE("an empty view says that something is not wanted") {
  CHECK_FALSE(Tensor{});
  CHECK(Grid().view);
}
