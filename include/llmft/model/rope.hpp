// Rotary position embedding of Llama, with llama3 scaling: transformers, modeling_rope_utils.py,
// _compute_default_rope_parameters and _compute_llama3_parameters.
#pragma once

#include <cstdint>
#include <vector>

#include "llmft/model/llama_config.hpp"

namespace llmft {

// [D / 2]: radians a position, theta^(-2i/D) before scaling. With llama3 scaling, wavelengths longer than
// original / low_freq_factor are stretched by `factor`, those shorter than original / high_freq_factor are
// kept, and those between go over from one to the other linearly in original / wavelength.
std::vector<float> rope_inv_freq(const LlamaConfig& config);

// Row-major [positions, D]: row p has cos(p * inv_freq) in its first half and sin in its second. The angle is
// a float product, as in transformers; its cosine and sine are rounded once.
std::vector<float> rope_table(const LlamaConfig& config, int64_t positions);

}  // namespace llmft
