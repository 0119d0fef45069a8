// THE table of a Llama model's tensors: what exists, what it is called in Hugging Face folders and PEFT
// adapters, where it lies in our buffers, what is trained. Allocation, loading, sharding, LoRA, checkpoints
// and export derive from it.
//
// Blocks are the units that a sharding store gathers: 0 the embedding, 1..L the layers, L + 1 the head (final
// norm and, unless tied, lm_head). A block has two flat arrays:
//   frozen    weights that are not trained, in the compute dtype, as used: with room for adapter columns
//             (ops/ops.hpp: W_ext [N + e, K + e])
//   trainable f32 masters of what is trained, each tensor row-major under its public name and shape. In full
//   fine-tuning the
//             compute copy has the same layout; linears that are used as one matrix (q,k,v; gate,up) lie one
//             after another.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llmft/model/llama_config.hpp"

namespace llmft {

enum class Role { embedding, attn_norm, qkv, o, mlp_norm, gate_up, down, final_norm, lm_head };

// LoRA with PEFT's meaning: y = W x + s B A x, s = alpha / r, or alpha / sqrt(r) with rsLoRA. rank 0: full
// fine-tuning.
struct AdapterSpec {
  int64_t rank = 0;
  double alpha = 16;
  bool rslora = false;
  std::vector<std::string> targets;  // of q_proj k_proj v_proj o_proj gate_proj up_proj down_proj

  double scale() const;
  bool targets_module(const std::string& module) const;
};

// Accepts PEFT's module names and the short forms q, k, v, o, gate, up, down, and "all-linear"; UserError
// otherwise.
std::vector<std::string> normalise_targets(const std::vector<std::string>& targets);

// One public tensor inside a packed one: rows [row, row + rows).
struct Member {
  std::string hf_name;  // "model.layers.0.self_attn.q_proj.weight"
  std::string module;   // "q_proj"; "" for what cannot carry an adapter
  int64_t row = 0;
  int64_t rows = 0;
  int64_t adapter_rank = 0;
  int64_t adapter_col = 0;  // its first column among the packed tensor's adapter columns
};

struct PackedTensor {
  Role role;
  int64_t rows = 0;       // N
  int64_t cols = 0;       // K; norms have one row
  int64_t extension = 0;  // e: sum of the members' adapter ranks, rounded up to the backend's multiple
  int64_t offset = 0;     // in the block's frozen flat array, or trainable one in full fine-tuning
  std::vector<Member> members;

  int64_t stored_rows() const { return rows + extension; }
  int64_t stored_cols() const { return cols + extension; }
};

enum class TrainableKind { weight, lora_a, lora_b };

struct Trainable {
  std::string
      name;  // Hugging Face's, or PEFT's "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
  TrainableKind kind;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t offset = 0;  // in the block's trainable flat array
  int tensor = 0;      // index into Block::tensors
  int member = 0;      // index into its members
  bool decay = true;   // weight decay applies: matrices yes, norms no

  int64_t numel() const { return rows * cols; }
};

struct Block {
  std::string name;  // "embedding", "layers.3", "head"
  std::vector<PackedTensor> tensors;
  std::vector<Trainable> trainables;
  int64_t frozen_numel = 0;
  int64_t trainable_numel = 0;

  const PackedTensor& tensor(Role role) const;
  bool has(Role role) const;
};

class LlamaTensors {
 public:
  // extension_multiple: adapter columns of a packed tensor are rounded up to it (a GPU's K tile; 1 on CPU).
  LlamaTensors(const LlamaConfig& config, const AdapterSpec& adapter, int64_t extension_multiple = 1);

  const LlamaConfig& config() const { return config_; }
  const AdapterSpec& adapter() const { return adapter_; }
  bool full_fine_tuning() const { return adapter_.rank == 0; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const Block& block(int index) const { return blocks_[static_cast<size_t>(index)]; }
  int block_count() const { return static_cast<int>(blocks_.size()); }
  int embedding_block() const { return 0; }
  int layer_block(int64_t layer) const { return static_cast<int>(layer) + 1; }
  int head_block() const { return block_count() - 1; }
  // The block that holds the matrix of the output projection: the head, or the embedding when tied.
  int lm_head_block() const { return config_.tie_word_embeddings ? embedding_block() : head_block(); }
  Role lm_head_role() const { return config_.tie_word_embeddings ? Role::embedding : Role::lm_head; }

  int64_t trainable_count() const;  // parameters that are trained
  // Differs when names, shapes or order of what is trained differ: a checkpoint fits only its own.
  std::string layout_hash() const;

 private:
  LlamaConfig config_;
  AdapterSpec adapter_;
  std::vector<Block> blocks_;
};

}  // namespace llmft
