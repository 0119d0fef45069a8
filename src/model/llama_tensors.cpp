#include "llmft/model/llama_tensors.hpp"

#include <algorithm>
#include <cmath>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"

namespace llmft {
namespace {

// Starts of tensors inside a flat array, in elements: 256 bytes of f32, so that every view is aligned for any
// backend.
constexpr int64_t kAlign = 64;
int64_t aligned(int64_t n) {
  return (n + kAlign - 1) / kAlign * kAlign;
}

const std::vector<std::string> kModules{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                        "gate_proj", "up_proj", "down_proj"};

// One linear or norm of the table below.
struct Source {
  std::string hf_name;
  std::string module;
  int64_t rows;
};

}  // namespace

double AdapterSpec::scale() const {
  auto r = static_cast<double>(rank);
  return rslora ? alpha / std::sqrt(r) : alpha / r;
}

bool AdapterSpec::targets_module(const std::string& module) const {
  return rank > 0 && std::find(targets.begin(), targets.end(), module) != targets.end();
}

std::vector<std::string> normalise_targets(const std::vector<std::string>& targets) {
  std::vector<std::string> out;
  auto add = [&](const std::string& module) {
    if (std::find(out.begin(), out.end(), module) == out.end()) out.push_back(module);
  };
  for (const std::string& target : targets) {
    if (target == "all-linear") {
      for (const std::string& module : kModules) add(module);
      continue;
    }
    std::string full = target.ends_with("_proj") ? target : target + "_proj";
    if (std::find(kModules.begin(), kModules.end(), full) == kModules.end()) {
      std::string near = nearest_name(full, kModules);
      user_error(
          "adapter.targets: '{}' is not a linear layer that can carry an adapter (one of {}, or "
          "all-linear){}",
          target, join(kModules, ", "), near.empty() ? "" : "; did you mean '" + near + "'?");
    }
    add(full);
  }
  if (out.empty()) user_error("adapter.targets: empty; name at least one of {}", join(kModules, ", "));
  return out;
}

const PackedTensor& Block::tensor(Role role) const {
  for (const PackedTensor& t : tensors)
    if (t.role == role) return t;
  internal_error("block " + name + " has no such tensor");
}

bool Block::has(Role role) const {
  return std::any_of(tensors.begin(), tensors.end(), [&](auto& t) { return t.role == role; });
}

LlamaTensors::LlamaTensors(const LlamaConfig& config, const AdapterSpec& adapter, int64_t extension_multiple)
    : config_(config), adapter_(adapter) {
  int64_t C = config.hidden_size, F = config.intermediate_size, D = config.head_dim;
  int64_t H = config.num_attention_heads, Hk = config.num_key_value_heads;

  auto pack = [&](Block& block, Role role, int64_t cols, const std::vector<Source>& sources) {
    PackedTensor tensor{role, 0, cols, 0, 0, {}};
    int64_t columns = 0;
    for (const Source& source : sources) {
      int64_t rank = adapter_.targets_module(source.module) ? adapter_.rank : 0;
      tensor.members.push_back({source.hf_name, source.module, tensor.rows, source.rows, rank, columns});
      tensor.rows += source.rows;
      columns += rank;
    }
    tensor.extension = (columns + extension_multiple - 1) / extension_multiple * extension_multiple;
    block.tensors.push_back(tensor);
  };
  auto finish = [&](Block& block) {
    for (size_t t = 0; t < block.tensors.size(); ++t) {
      PackedTensor& tensor = block.tensors[t];
      bool norm =
          tensor.role == Role::attn_norm || tensor.role == Role::mlp_norm || tensor.role == Role::final_norm;
      if (full_fine_tuning()) {
        block.trainable_numel = aligned(block.trainable_numel);
        tensor.offset = block.trainable_numel;
        for (size_t m = 0; m < tensor.members.size(); ++m) {
          const Member& member = tensor.members[m];
          block.trainables.push_back({member.hf_name, TrainableKind::weight, member.rows, tensor.cols,
                                      block.trainable_numel, static_cast<int>(t), static_cast<int>(m),
                                      !norm});
          block.trainable_numel += member.rows * tensor.cols;
        }
        continue;
      }
      tensor.offset = block.frozen_numel = aligned(block.frozen_numel);
      block.frozen_numel += tensor.stored_rows() * tensor.stored_cols();
      auto add = [&](size_t m, const char* part, TrainableKind kind, int64_t rows, int64_t cols) {
        const std::string& name = tensor.members[m].hf_name;
        std::string stem = "base_model.model." + name.substr(0, name.size() - std::string("weight").size());
        block.trainable_numel = aligned(block.trainable_numel);
        block.trainables.push_back({stem + part, kind, rows, cols, block.trainable_numel, static_cast<int>(t),
                                    static_cast<int>(m), true});
        block.trainable_numel += rows * cols;
      };
      // the A of a packed linear one after another: their gradients are then one product
      for (size_t m = 0; m < tensor.members.size(); ++m)
        if (int64_t rank = tensor.members[m].adapter_rank; rank != 0)
          add(m, "lora_A.weight", TrainableKind::lora_a, rank, tensor.cols);
      for (size_t m = 0; m < tensor.members.size(); ++m)
        if (int64_t rank = tensor.members[m].adapter_rank; rank != 0)
          add(m, "lora_B.weight", TrainableKind::lora_b, tensor.members[m].rows, rank);
    }
    block.frozen_numel = aligned(block.frozen_numel);
    block.trainable_numel = aligned(block.trainable_numel);
    blocks_.push_back(std::move(block));
  };

  Block embedding{.name = "embedding"};
  pack(embedding, Role::embedding, C, {{"model.embed_tokens.weight", "", config.vocab_size}});
  finish(embedding);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    std::string p = fmt::format("model.layers.{}.", i);
    Block layer{.name = fmt::format("layers.{}", i)};
    pack(layer, Role::attn_norm, C, {{p + "input_layernorm.weight", "", 1}});
    pack(layer, Role::qkv, C,
         {{p + "self_attn.q_proj.weight", "q_proj", H * D},
          {p + "self_attn.k_proj.weight", "k_proj", Hk * D},
          {p + "self_attn.v_proj.weight", "v_proj", Hk * D}});
    pack(layer, Role::o, H * D, {{p + "self_attn.o_proj.weight", "o_proj", C}});
    pack(layer, Role::mlp_norm, C, {{p + "post_attention_layernorm.weight", "", 1}});
    pack(layer, Role::gate_up, C,
         {{p + "mlp.gate_proj.weight", "gate_proj", F}, {p + "mlp.up_proj.weight", "up_proj", F}});
    pack(layer, Role::down, F, {{p + "mlp.down_proj.weight", "down_proj", C}});
    finish(layer);
  }
  Block head{.name = "head"};
  pack(head, Role::final_norm, C, {{"model.norm.weight", "", 1}});
  if (!config.tie_word_embeddings) pack(head, Role::lm_head, C, {{"lm_head.weight", "", config.vocab_size}});
  finish(head);
}

int64_t LlamaTensors::trainable_count() const {
  int64_t total = 0;
  for (const Block& block : blocks_)
    for (const Trainable& t : block.trainables) total += t.numel();
  return total;
}

std::string LlamaTensors::layout_hash() const {
  std::string text;
  for (const Block& block : blocks_)
    for (const Trainable& t : block.trainables)
      text += fmt::format("{} {} {} {}\n", t.name, t.rows, t.cols, t.offset);
  return hash_bytes(text);
}

}  // namespace llmft
