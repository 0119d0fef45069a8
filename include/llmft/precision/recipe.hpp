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

// Dynamic loss scaling (Micikevicius et al. 2018): gradients are of loss * scale; an update whose gradient
// norm is not finite is skipped and halves the scale; `growth_interval` good updates in a row double it.
class LossScaler {
 public:
  struct State {
    double scale = 1;
    int64_t good_steps = 0;
  };

  explicit LossScaler(const Recipe& recipe, double initial_scale = 65536, int64_t growth_interval = 2000);
  double scale() const { return state_.scale; }
  // True: apply the update. False: skip it.
  bool update(bool gradients_finite);

  const State& state() const { return state_; }
  void restore(const State& state) { state_ = state; }

 private:
  bool enabled_;
  int64_t growth_interval_;
  State state_;
};

}  // namespace llmft
