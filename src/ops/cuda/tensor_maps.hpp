// Descriptors of matrices for the copy engine, made once per matrix and kept: a step meets the same ones
// again and again, and a graph being captured needs none of the driver's help.
#pragma once

#include <array>
#include <map>

#include "gemm_swiglu.hpp"
#include "llmft/tensor/tensor.hpp"

namespace llmft {

// The copy engine can read it: 16 bits, base and rows on 16 bytes, sizes within its limits.
bool can_map(const Tensor& x);

class TensorMaps {
 public:
  // Boxes of at most 256 rows and exactly 64 columns, rows of 128 bytes swizzled.
  const CUtensorMap& of(const Tensor& x, cuda::BoxShape box);

 private:
  using Key = std::array<int64_t, 7>;
  std::map<Key, CUtensorMap> maps_;
};

}  // namespace llmft
