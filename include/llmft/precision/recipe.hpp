// A precision is data: which dtype each role has. No layer asks for its name.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "llmft/ops/ops.hpp"
#include "llmft/tensor/dtype.hpp"

namespace llmft {

enum class Precision { fp32, tf32, fp16, bf16, fp8 };
inline constexpr std::pair<const char*, Precision> kPrecisionNames[] = {{"fp32", Precision::fp32},
                                                                        {"tf32", Precision::tf32},
                                                                        {"fp16", Precision::fp16},
                                                                        {"bf16", Precision::bf16},
                                                                        {"fp8", Precision::fp8}};
const char* name_of(Precision precision);

// Master parameters, optimizer moments, parameter gradients and their reduction are f32 in every recipe.
struct Recipe {
  Precision precision;
  DType compute;      // weights as used, activations, activation gradients, logits
  MatmulMode matmul;  // how f32 operands of matrix products are taken
  bool loss_scaling;  // fp16's gradients underflow without it
};

// UserError for a precision this build cannot run.
Recipe make_recipe(Precision precision);

}  // namespace llmft
