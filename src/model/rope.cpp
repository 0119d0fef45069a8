// Rounded to float after every operation, in the order of transformers' formula on its float tensors: the
// frequencies are then equal to its own bit for bit. Exact ones would differ in the last place, which
// position 8192 multiplies to an angle off by 5e-4. The power alone is taken in double and rounded, so that
// it does not depend on a libm's powf.
#include "llmft/model/rope.hpp"

#include <cmath>
#include <numbers>

namespace llmft {
namespace {

float llama3_scaled(float frequency, const RopeScaling& scaling) {
  auto factor = static_cast<float>(scaling.factor);
  auto low = static_cast<float>(scaling.low_freq_factor);
  auto high = static_cast<float>(scaling.high_freq_factor);
  auto original = static_cast<float>(scaling.original_max_position_embeddings);
  float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
  if (wavelength > original / low) return frequency / factor;
  if (wavelength < original / high) return frequency;
  float smooth = (original / wavelength - low) / (high - low);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

std::vector<float> rope_inv_freq(const LlamaConfig& config) {
  std::vector<float> out;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    float exponent = static_cast<float>(i) / static_cast<float>(config.head_dim);
    float frequency = 1 / static_cast<float>(std::pow(config.rope_theta, static_cast<double>(exponent)));
    if (config.rope_scaling.kind == RopeScaling::Kind::llama3)
      frequency = llama3_scaled(frequency, config.rope_scaling);
    out.push_back(frequency);
  }
  return out;
}

std::vector<float> rope_table(const LlamaConfig& config, int64_t positions) {
  std::vector<float> inv_freq = rope_inv_freq(config);
  size_t half = inv_freq.size();
  std::vector<float> table(static_cast<size_t>(positions) * 2 * half);
  for (size_t p = 0; p < static_cast<size_t>(positions); ++p) {
    float* row = table.data() + p * 2 * half;
    for (size_t i = 0; i < half; ++i) {
      float angle = inv_freq[i] * static_cast<float>(p);
      row[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      row[half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return table;
}

}  // namespace llmft
