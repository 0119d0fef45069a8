// The Llama architecture (Hugging Face's LlamaForCausalLM) over an Ops backend and a ParamStore: it knows
// neither the device nor how many ranks there are. All memory is planned at construction; a step allocates
// nothing.
#pragma once

#include <span>
#include <vector>

#include "llmft/model/llama_tensors.hpp"
#include "llmft/model/param_store.hpp"
#include "llmft/nn/attention_block.hpp"
#include "llmft/nn/lm_head.hpp"
#include "llmft/nn/mlp_block.hpp"
#include "llmft/precision/recipe.hpp"

namespace llmft {

// A micro-batch on the host: documents one after another, without padding.
struct HostBatch {
  std::span<const int32_t> tokens;      // [T]
  std::span<const int32_t> positions;   // [T], from 0 in every document
  std::span<const int32_t> cu_seqlens;  // [documents + 1]
  std::span<const int32_t> loss_rows;   // [R]
  std::span<const int32_t> targets;     // [R]
};

struct LlamaLimits {
  int64_t max_tokens;           // T of the largest micro-batch
  int64_t logits_chunk = 1024;  // rows of logits held at a time
};

class Llama {
 public:
  Llama(const LlamaTensors& tensors, const Recipe& recipe, Ops& ops, ParamStore& store,
        const LlamaLimits& limits);

  // Sum over the scored rows of -log p(target), and the gradients of scale * sum added into the store.
  // scale = loss scale / scored rows of the whole global batch, so that gradients of micro-batches and ranks
  // just add up.
  double forward_backward(const HostBatch& batch, float scale);
  // The sum alone.
  double loss(const HostBatch& batch);
  // f32 [rows, V] for chosen rows, on the device of ops.
  void logits(const HostBatch& batch, std::span<const int32_t> rows, const Tensor& out);

 private:
  struct LayerSlots {
    Arena::Slot x, qkv, attn, lse, x_mid, gate_up;
  };
  struct LayerView;

  BatchView upload(const HostBatch& batch);
  void forward(const BatchView& batch);
  void backward(const BatchView& batch);
  LayerView layer_view(int64_t layer, int64_t tokens) const;
  LmHead::Scratch head_scratch(int64_t rows) const;
  LinearGradients linear_gradients(int block, Role role) const;
  Tensor norm_gradient(int block, Role role) const;
  int64_t extension(int block, Role role) const;
  Linear linear(const WeightLease& lease, int block, Role role) const;

  const LlamaTensors& tensors_;
  Ops& ops_;
  ParamStore& store_;
  LlamaLimits limits_;
  Arena arena_;
  std::vector<LayerSlots> layers_;
  Arena::Slot x_out_, xn_, rstd_, h_, dh_, dattn_, dqkv_, dxn_, dx_;
  Arena::Slot head_x_, head_xn_, head_dxn_, head_dx_, head_rstd_, head_loss_, logits_;
  Arena::Slot tokens_, positions_, cu_seqlens_, loss_rows_, targets_, rope_table_;
  AttentionBlock attention_;
  MlpBlock mlp_;
  LmHead head_;
};

// Floating-point operations of one training step as a plain implementation does them: 2 for a multiply-add;
// matrix products of all layers and of lm_head on the scored rows, forward and input gradient, weight
// gradients of what is trained, and causal attention (forward 4, backward 10 per head, query, key and
// channel, halved for causality) over sum_len_squared = sum of squared document lengths. Work skipped or
// redone does not count (docs/performance.md).
double training_flops(const LlamaTensors& tensors, double tokens, double loss_rows, double sum_len_squared);

}  // namespace llmft
