#include "llmft/precision/recipe.hpp"

#include <algorithm>

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

LossScaler::LossScaler(const Recipe& recipe, double initial_scale, int64_t growth_interval)
    : enabled_(recipe.loss_scaling), growth_interval_(growth_interval) {
  state_.scale = enabled_ ? initial_scale : 1;
}

bool LossScaler::update(bool gradients_finite) {
  if (!enabled_) return true;  // without scaling a bad gradient is an error of the run, not of the scale
  if (!gradients_finite) {
    state_.scale = std::max(state_.scale / 2, 1.0);
    state_.good_steps = 0;
    return false;
  }
  if (++state_.good_steps == growth_interval_) {
    state_.scale = std::min(state_.scale * 2, 0x1.0p24);
    state_.good_steps = 0;
  }
  return true;
}

}  // namespace llmft
