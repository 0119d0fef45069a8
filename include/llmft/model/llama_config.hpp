// config.json of a Hugging Face Llama: the shapes of the model and what its RoPE needs. What this program
// does not compute exactly as transformers' LlamaForCausalLM does (biases, another activation, another RoPE
// scaling) is refused rather than ignored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/tensor/dtype.hpp"

namespace llmft {

struct RopeScaling {
  enum class Kind { none, llama3 };
  Kind kind = Kind::none;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_position_embeddings = 0;
};

struct LlamaConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;  // even
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  int64_t max_position_embeddings = 2048;
  std::vector<int64_t> eos_token_ids;  // empty when the config has none
  int64_t bos_token_id = -1;           // -1 when the config has none
  std::string torch_dtype;             // "bfloat16"; empty when the config does not say

  // A tied head counts once.
  int64_t parameter_count() const;
};

// folder/config.json, with rope_theta and rope_scaling at the top (transformers 4) or rope_parameters
// (transformers 5). Absent keys take the defaults of transformers' LlamaConfig, but for the sizes, which must
// be there. UserError, naming file and key: no such file (and how to download one), not a Llama, impossible
// or unsupported values.
LlamaConfig load_llama_config(const std::filesystem::path& folder);
// "hf download meta-llama/Llama-3.2-1B --local-dir DIR"; a folder that is called as a Llama model is that
// one's.
std::string download_command(const std::filesystem::path& folder);
// The same from the text; `where` names it in errors.
LlamaConfig parse_llama_config(std::string_view text, const std::string& where);

// A new config.json, in the form that transformers 4 and 5 both read.
std::string config_json(const LlamaConfig& config);
// An exported model's config.json: the source's text with the weights' type replaced and every other key,
// known or not, as it was.
std::string config_json_with_dtype(std::string_view source_text, DType dtype);

}  // namespace llmft
