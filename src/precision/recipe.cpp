#include "llmft/precision/recipe.hpp"

namespace llmft {

const char* name_of(Precision precision) {
  for (auto& [name, value] : kPrecisionNames)
    if (value == precision) return name;
  return "?";
}

Recipe make_recipe(Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return {precision, DType::f32, MatmulMode::f32, false};
    case Precision::tf32:
      return {precision, DType::f32, MatmulMode::tf32, false};
    case Precision::fp16:
      return {precision, DType::f16, MatmulMode::f32, true};
    case Precision::bf16:
      return {precision, DType::bf16, MatmulMode::f32, false};
    case Precision::fp8:
      break;
  }
  user_error(
      "--precision fp8: not in this version yet; use bf16, which has the same range of use on any GPU");
}

}  // namespace llmft
