// A model folder, and an adapter if there is one, on a device, for inference: what generation, evaluation and
// export start from.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "llmft/comm/comm.hpp"
#include "llmft/model/llama_config.hpp"
#include "llmft/model/llama_tensors.hpp"
#include "llmft/model/param_store.hpp"
#include "llmft/ops/backend.hpp"
#include "llmft/precision/recipe.hpp"

namespace llmft {

struct ModelSource {
  std::filesystem::path model;
  std::filesystem::path adapter;  // empty: none
  DeviceChoice device = DeviceChoice::automatic;
  int gpu = 0;                         // which of this node's
  std::optional<Precision> precision;  // nothing: bf16 on a GPU, fp32 on a CPU
  int threads = 0;                     // on a CPU; 0: its share of the cores
  int ranks_on_node = 1;               // that share them
};

class LoadedModel {
 public:
  // UserError: no such folder, an adapter made for another shape, no GPU, not enough memory.
  explicit LoadedModel(const ModelSource& source);
  // Random weights of this shape, for benchmarks: source.model and source.adapter are not read.
  LoadedModel(const LlamaConfig& config, const AdapterSpec& adapter, const ModelSource& source);

  Device& device() const { return *device_; }
  Ops& ops() const { return *ops_; }
  DecodeOps& decode() const { return *decode_; }
  ParamStore& store() const { return *store_; }
  const LlamaConfig& config() const { return config_; }
  const LlamaTensors& tensors() const { return *tensors_; }
  const Recipe& recipe() const { return recipe_; }
  bool has_adapter() const { return has_adapter_; }
  // Tokens after which the model has nothing more to say: config.json's and generation_config.json's
  // eos_token_id.
  const std::vector<int32_t>& end_tokens() const { return end_tokens_; }

 private:
  // Everything but the weights' values.
  void open(const AdapterSpec& adapter, const ModelSource& source);

  bool cuda_;
  bool has_adapter_;
  Recipe recipe_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<DecodeOps> decode_;
  std::unique_ptr<Comm> comm_;
  LlamaConfig config_;
  std::unique_ptr<LlamaTensors> tensors_;
  std::unique_ptr<ParamStore> store_;
  std::vector<int32_t> end_tokens_;
};

}  // namespace llmft
