// A model on this rank, put together as the trainer does, for tests against goldens.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include "llmft/base/file.hpp"
#include "llmft/model/llama.hpp"
#include "llmft/model/model_folder.hpp"
#include "llmft/ops/backend.hpp"
#include "llmft/optim/adamw.hpp"
#include "llmft/parallel/strategy.hpp"

// The checkout: where the programs were built, or LLMFT_SOURCE_DIR for programs that were carried elsewhere.
inline std::filesystem::path source_folder() {
  const char* elsewhere = std::getenv("LLMFT_SOURCE_DIR");
  return elsewhere != nullptr && *elsewhere != '\0' ? elsewhere : LLMFT_SOURCE_DIR;
}

inline const std::filesystem::path kGolden = source_folder() / "tests/golden";

// Documents one after another, with everything that HostBatch views.
struct Documents {
  std::vector<int32_t> tokens, positions, cu_seqlens{0}, loss_rows, targets;

  void add(const std::vector<int32_t>& document, int32_t loss_start) {
    auto base = static_cast<int32_t>(tokens.size());
    for (int32_t i = 0; i < static_cast<int32_t>(document.size()); ++i) {
      tokens.push_back(document[static_cast<size_t>(i)]);
      positions.push_back(i);
      if (i >= loss_start) {
        loss_rows.push_back(base + i - 1);
        targets.push_back(document[static_cast<size_t>(i)]);
      }
    }
    cu_seqlens.push_back(static_cast<int32_t>(tokens.size()));
  }
  llmft::HostBatch view() const { return {tokens, positions, cu_seqlens, loss_rows, targets}; }
};

inline nlohmann::json read_json(const std::filesystem::path& path) {
  return nlohmann::json::parse(llmft::read_file(path));
}

struct Model {
  llmft::Recipe recipe;
  std::unique_ptr<llmft::Device> device;
  std::unique_ptr<llmft::Ops> ops;
  llmft::LlamaConfig config;
  llmft::LlamaTensors tensors;
  std::unique_ptr<llmft::Comm> comm;
  std::unique_ptr<llmft::ParamStore> store;
  std::unique_ptr<llmft::Llama> llama;

  Model(const std::filesystem::path& folder, const llmft::AdapterSpec& adapter,
        const std::filesystem::path& adapter_folder = {}, llmft::Precision precision = llmft::Precision::fp32,
        int64_t max_tokens = 256, std::unique_ptr<llmft::Comm> ranks = llmft::make_self_comm(),
        llmft::Strategy strategy = llmft::Strategy::ddp, llmft::Reduction reduction = llmft::Reduction::fast,
        int64_t extension_multiple = 1, llmft::DeviceKind kind = llmft::DeviceKind::cpu,
        llmft::FsdpMode mode = llmft::FsdpMode::full_shard, int group = 0)
      : recipe(llmft::make_recipe(precision)),
        device(kind == llmft::DeviceKind::cpu ? llmft::make_cpu_device() : llmft::make_cuda_device(0)),
        ops(kind == llmft::DeviceKind::cpu
                ? llmft::make_cpu_ops(*device, recipe.matmul, 1)
                : llmft::make_cuda_ops(*device, recipe.matmul, llmft::KernelChoice::measured)),
        config(llmft::load_llama_config(folder)),
        tensors(config, adapter, extension_multiple),
        comm(std::move(ranks)),
        store(llmft::make_param_store(strategy, {tensors, recipe, *ops, *comm, reduction, mode, group})) {
    llmft::load_model(folder, tensors, recipe, 1, *store);
    if (!adapter_folder.empty()) llmft::load_adapter(adapter_folder, tensors, *store);
    llama = std::make_unique<llmft::Llama>(tensors, recipe, *ops, *store, llmft::LlamaLimits{max_tokens, 16});
  }

  // Mean loss of the batch, gradients in the store.
  double step_gradients(const Documents& documents) {
    store->zero_gradients();
    double scored = static_cast<double>(documents.targets.size());
    double loss = forward_backward(documents, static_cast<float>(1 / scored));
    store->finish_gradients();
    return loss / scored;
  }
  // The sum of the batch's losses.
  double forward_backward(const Documents& documents, float scale, const llmft::Tensor& loss_scale = {}) {
    llmft::Buffer sum(*device, sizeof(double), llmft::MemoryPart::workspace);
    llama->forward_backward(documents.view(), scale, loss_scale, sum.view(llmft::DType::f64, 1, 1));
    double loss = 0;
    device->copy_to_host(&loss, sum.data(), sizeof loss);
    device->synchronize();
    return loss;
  }
};
