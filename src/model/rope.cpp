#include "llmft/model/rope.hpp"

#include <cmath>
#include <numbers>

namespace llmft {
namespace {

double llama3_scaled(double frequency, const RopeScaling& scaling) {
  double wavelength = 2 * std::numbers::pi / frequency;
  auto original = static_cast<double>(scaling.original_max_position_embeddings);
  if (wavelength > original / scaling.low_freq_factor) return frequency / scaling.factor;
  if (wavelength < original / scaling.high_freq_factor) return frequency;
  double smooth = (original / wavelength - scaling.low_freq_factor) /
                  (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

}  // namespace

std::vector<float> rope_inv_freq(const LlamaConfig& config) {
  std::vector<float> out;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    double frequency =
        1 / std::pow(config.rope_theta, static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (config.rope_scaling.kind == RopeScaling::Kind::llama3)
      frequency = llama3_scaled(frequency, config.rope_scaling);
    out.push_back(static_cast<float>(frequency));
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
