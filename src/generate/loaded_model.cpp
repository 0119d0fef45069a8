#include "llmft/generate/loaded_model.hpp"

#include <algorithm>

#include <nlohmann/json.hpp>
#include <sched.h>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/rng.hpp"
#include "llmft/model/model_folder.hpp"
#include "llmft/parallel/strategy.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

bool wants_cuda(DeviceChoice choice) {
  return choice == DeviceChoice::cuda || (choice == DeviceChoice::automatic && cuda_device_count() > 0);
}

// The launcher may have bound this rank to some cores already: then those, else a share of the node.
int thread_count(const ModelSource& source) {
  if (source.threads > 0) return source.threads;
  int share = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)) / std::max(1, source.ranks_on_node);
  cpu_set_t mask;
  int usable = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : share;
  return std::max(1, std::min(share, usable));
}

// A rank without targets: frozen weights and nothing trained.
AdapterSpec adapter_of(const ModelSource& source) {
  if (source.adapter.empty()) return {.rank = 1};
  if (!fs::exists(source.adapter / "adapter_config.json"))
    user_error(
        "{}: no adapter_config.json in it; give the adapter folder that 'llmft train' wrote "
        "(<output>/adapter) or "
        "one of PEFT's",
        source.adapter.string());
  return read_adapter_config(source.adapter);
}

std::vector<int32_t> read_end_tokens(const fs::path& model, const LlamaConfig& config) {
  std::vector<int64_t> ids = config.eos_token_ids;
  fs::path path = model / "generation_config.json";
  if (fs::exists(path)) {
    try {
      auto json = nlohmann::json::parse(read_file(path));
      if (json.contains("eos_token_id")) {
        const auto& eos = json["eos_token_id"];
        if (eos.is_array())
          for (const auto& id : eos) ids.push_back(id.get<int64_t>());
        else if (!eos.is_null())
          ids.push_back(eos.get<int64_t>());
      }
    } catch (const nlohmann::json::exception& e) {
      user_error("{}: cannot be read ({}); download it again or delete it", path.string(), e.what());
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return {ids.begin(), ids.end()};
}

}  // namespace

void LoadedModel::open(const AdapterSpec& adapter, const ModelSource& source) {
  tensors_ = std::make_unique<LlamaTensors>(config_, adapter, cuda_ ? 64 : 1);
  device_ = cuda_ ? make_cuda_device(source.gpu) : make_cpu_device();
  device_->set_memory_advice(cuda_ ? "use a GPU with more free memory, or --device cpu"
                                   : "use a machine with more free memory");
  int threads = thread_count(source);
  ops_ = cuda_
             ? make_cuda_ops(*device_, recipe_.matmul, KernelChoice::measured, {.file = gemm_choices_file()})
             : make_cpu_ops(*device_, recipe_.matmul, threads);
  decode_ = cuda_ ? make_cuda_decode_ops(*device_) : make_cpu_decode_ops(*device_, threads);
  comm_ = make_self_comm();
  store_ = make_param_store(Strategy::none, {*tensors_, recipe_, *ops_, *comm_, Reduction::fast});
}

LoadedModel::LoadedModel(const ModelSource& source)
    : cuda_(wants_cuda(source.device)),
      has_adapter_(!source.adapter.empty()),
      recipe_(make_recipe(source.precision.value_or(cuda_ ? Precision::bf16 : Precision::fp32))),
      config_(load_llama_config(source.model)),
      end_tokens_(read_end_tokens(source.model, config_)) {
  open(adapter_of(source), source);
  load_model(source.model, *tensors_, recipe_, 0, *store_);
  if (has_adapter_) load_adapter(source.adapter, *tensors_, *store_);
}

// One random piece again and again: making a billion numbers would take longer than what is measured.
LoadedModel::LoadedModel(const LlamaConfig& config, const AdapterSpec& adapter, const ModelSource& source)
    : cuda_(wants_cuda(source.device)),
      has_adapter_(adapter.rank > 0 && !adapter.targets.empty()),
      recipe_(make_recipe(source.precision.value_or(cuda_ ? Precision::bf16 : Precision::fp32))),
      config_(config) {
  open(adapter.rank > 0 ? adapter : AdapterSpec{.rank = 1}, source);
  constexpr int64_t kPiece = (1 << 20) + 7;
  CounterRng rng(1, 2);
  std::vector<float> piece(kPiece);
  for (size_t i = 0; i < piece.size(); ++i) piece[i] = static_cast<float>(rng.uniform(i) - 0.5) * 0.07f;
  for (int b = 0; b < tensors_->block_count(); ++b) {
    const Block& block = tensors_->block(b);
    std::vector<std::byte> flat(static_cast<size_t>(block.frozen_numel) * size_of(recipe_.compute));
    visit_dtype(recipe_.compute, [&]<class S>(S) {
      if constexpr (!std::is_same_v<S, double>) {
        auto* values = reinterpret_cast<S*>(flat.data());
        std::vector<S> converted(piece.size());
        convert(std::span<const float>(piece), std::span<S>(converted));
        for (int64_t i = 0; i < block.frozen_numel; i += kPiece)
          std::copy_n(converted.begin(), std::min(kPiece, block.frozen_numel - i), values + i);
        for (const PackedTensor& t : block.tensors)
          if (t.role == Role::attn_norm || t.role == Role::mlp_norm || t.role == Role::final_norm)
            std::fill_n(values + t.offset, t.cols, from_float<S>(1));
      }
    });
    store_->set_frozen(b, flat);
    std::vector<float> master(static_cast<size_t>(block.trainable_numel));
    for (size_t i = 0; i < master.size(); ++i) master[i] = piece[i % piece.size()];
    if (!master.empty()) store_->set_master(b, master);
  }
  store_->publish();
}

}  // namespace llmft
