// What decides about an update, kept where the parameters are: gradient norm, loss scale, counters. An update
// then needs no word from the host, which reads the state when it is convenient. Included by kernels, so of
// plain types only.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define LLMFT_HOST_DEVICE __host__ __device__
#else
#define LLMFT_HOST_DEVICE
#endif

namespace llmft {

// All doubles: a tensor f64 [1, kUpdateFields] holds one.
struct UpdateState {
  double loss_scale = 1;   // of the next backward pass
  double good_steps = 0;   // since the loss scale last changed
  double updates = 0;      // done, t of AdamW's bias corrections
  double norm = 0;         // L2 norm of the last gradients, loss scale taken out
  double apply = 0;        // 1: the norm was finite, so the update happens
  double grad_scale = 0;   // clip factor / loss scale of that update
  double correction1 = 1;  // 1 - beta1^updates
  double correction2 = 1;
};
constexpr int kUpdateFields = sizeof(UpdateState) / sizeof(double);

struct UpdateRule {
  double clip = 0;  // largest norm; 0: no clipping
  double beta1 = 0.9;
  double beta2 = 0.999;
  // Dynamic loss scaling (Micikevicius et al. 2018): a norm that is not finite halves the scale, and
  // growth_interval good ones in a row double it. Otherwise the scale stays.
  bool loss_scaling = false;
  double growth_interval = 2000;
};

// torch.nn.utils.clip_grad_norm_'s factor: min(1, clip / (norm + 1e-6)).
LLMFT_HOST_DEVICE inline double clip_factor(double norm, double clip) {
  if (clip <= 0) return 1;
  double factor = clip / (norm + 1e-6);
  return factor < 1 ? factor : 1;
}

// The state after gradients whose squares, loss scale included, sum up to sum_squares.
LLMFT_HOST_DEVICE inline void advance(UpdateState& s, const UpdateRule& rule, double sum_squares) {
  constexpr double kLargestScale = 16777216;
  double root = sqrt(sum_squares);
  s.norm = root / s.loss_scale;
  bool finite = s.norm - s.norm == 0;
  s.apply = finite ? 1 : 0;
  if (finite) {
    s.grad_scale = clip_factor(s.norm, rule.clip) / s.loss_scale;
    s.updates += 1;
    s.correction1 = 1 - pow(rule.beta1, s.updates);
    s.correction2 = 1 - pow(rule.beta2, s.updates);
  }
  if (!rule.loss_scaling) return;
  s.good_steps = finite ? s.good_steps + 1 : 0;
  if (!finite && s.loss_scale > 1) s.loss_scale /= 2;
  if (finite && s.good_steps >= rule.growth_interval) {
    s.good_steps = 0;
    if (s.loss_scale < kLargestScale) s.loss_scale *= 2;
  }
}

}  // namespace llmft
