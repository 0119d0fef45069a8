// A model's weights between disk and a ParamStore: Hugging Face folders in, Hugging Face folders and PEFT
// adapters out and in.
#pragma once

#include <filesystem>
#include <string>

#include "llmft/base/rng.hpp"
#include "llmft/model/llama_tensors.hpp"
#include "llmft/model/param_store.hpp"
#include "llmft/model/safetensors.hpp"
#include "llmft/precision/recipe.hpp"

namespace llmft {

// Fills the store's frozen weights (LoRA) or masters (full) from model.safetensors or its indexed parts,
// block by block. Adapters start as PEFT starts them: A Kaiming-uniform (a = sqrt 5, so U(-1/sqrt(K),
// 1/sqrt(K))) from `seed`, B zero.
void load_model(const std::filesystem::path& folder, const LlamaTensors& tensors, const Recipe& recipe,
                uint64_t seed, ParamStore& store);

// What an adapter folder declares: PEFT's adapter_config.json, read as r, alpha, rsLoRA and target modules.
// UserError for what is not plain LoRA on Llama's linears (DoRA, bias, rank patterns, other modules saved).
AdapterSpec read_adapter_config(const std::filesystem::path& folder);
// UserError for a tensor that these tensors' adapters do not have: it would be left out.
void check_adapter_tensors(const TensorFolder& adapter, const LlamaTensors& tensors);
// Loads adapter_model.safetensors into the masters. The store's tensors must have been made for this adapter.
void load_adapter(const std::filesystem::path& folder, const LlamaTensors& tensors, ParamStore& store);
// Collective; rank 0 writes adapter_model.safetensors and adapter_config.json, whole or not at all. base: the
// path or name of the base model, recorded in the config.
void save_adapter(const std::filesystem::path& folder, const LlamaTensors& tensors, const std::string& base,
                  ParamStore& store, bool is_root);

// What a Hugging Face folder has beside config and weights: tokenizer, generation config, chat template.
void copy_beside_weights(const std::filesystem::path& source, const std::filesystem::path& folder);
// Full fine-tuning's result, collective: rank 0 writes a Hugging Face folder (weights in `dtype`; config,
// tokenizer and generation files copied from `source`).
void save_model(const std::filesystem::path& folder, const std::filesystem::path& source,
                const LlamaTensors& tensors, DType dtype, ParamStore& store, bool is_root);

}  // namespace llmft
