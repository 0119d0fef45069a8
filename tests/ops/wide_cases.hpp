// Shapes that backends with vector accesses, several blocks a row or split sums need, beside op_cases' odd
// and small ones: whole vectors in every row (the test's gaps decide that too), rows beyond what one warp or
// block holds, more rows than one block sums.
#pragma once

#include "ops/op_cases.hpp"

namespace llmft::test {

inline void wide_embed(OpTest& t) {
  check_embed_backward(t, 300, 3, 2048);
  check_embed_backward(t, 1500, 128256, 16);
  check_gather_scatter(t, 2048);
  check_gather_scatter(t, 5000);
}

inline void wide_norm(OpTest& t) {
  for (auto [tokens, width, tail] : {std::array{9, 512, 0},
                                     {5, 1024, 64},
                                     {130, 2048, 64},
                                     {3, 8192, 8},
                                     {2, 4104, 0},
                                     {700, 64, 0},
                                     {3, 2051, 0}}) {
    check_norm(t, tokens, width, tail);
    check_norm_backward(t, tokens, width, tail);
  }
}

inline void wide_matmul(OpTest& t) {
  for (auto [m, n, k] : {std::array{130, 192, 320}, {64, 64, 2112}, {257, 16, 264}, {16, 264, 257}})
    check_matmul(t, m, n, k);
}

inline void wide_rope(OpTest& t) {
  check_rope(t, 33, 40, 64);
  check_rope(t, 5, 300, 16);
}

inline void wide_swiglu(OpTest& t) {
  check_swiglu(t, 3, 8192);
  check_swiglu(t, 20, 1048);
}

inline void wide_matmul_swiglu(OpTest& t) {
  for (auto [tokens, width, inner] : {std::array{130, 128, 72}, {257, 384, 320}, {3, 256, 2112}})
    check_matmul_swiglu(t, tokens, width, inner);
}

inline void wide_cross_entropy(OpTest& t) {
  for (auto [rows, classes] :
       {std::array{3, 128256}, {5, 16384}, {3, 20000}, {2, 50264}, {2, 40001}, {1, 200008}, {1, 400008}})
    check_cross_entropy(t, rows, classes);
}

inline void wide_flat(OpTest& t) {
  for (auto [rows, cols] : {std::array{3, 4096}, {5, 40}, {1, 70003}, {300, 16}}) {
    check_convert(t, rows, cols);
    check_add(t, rows, cols);
  }
  check_sums(t, 200001, 65536);
  check_sums(t, 300000, 131072);
  check_sums(t, 5000, 63);
}

inline const std::vector<OpCase>& wide_cases() {
  static const std::vector<OpCase> cases = {{"embed_backward, gather_rows, scatter_rows", wide_embed},
                                            {"norm, norm_backward", wide_norm},
                                            {"matmul", wide_matmul},
                                            {"rope", wide_rope},
                                            {"swiglu, swiglu_backward", wide_swiglu},
                                            {"matmul_swiglu, its backward", wide_matmul_swiglu},
                                            {"cross_entropy", wide_cross_entropy},
                                            {"convert, add, sum, chunk_sum_squares", wide_flat}};
  return cases;
}

}  // namespace llmft::test
