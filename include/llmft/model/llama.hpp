// The Llama architecture (Hugging Face's LlamaForCausalLM) over an Ops backend and a ParamStore: it knows
// neither the device nor how many ranks there are. All memory is planned at construction; a step allocates
// nothing.
#pragma once

#include <array>
#include <memory>
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
  int64_t logits_chunk = 2048;  // rows of logits held at a time
};

class Llama {
 public:
  Llama(const LlamaTensors& tensors, const Recipe& recipe, Ops& ops, ParamStore& store,
        const LlamaLimits& limits);

  // loss f64 [1, 1], on the device: sum over the scored rows of -log p(target). The gradients of
  // scale * loss_scale * sum are added into the store. scale = 1 / scored rows of the whole global batch, so
  // that gradients of micro-batches and ranks just add up; loss_scale f64 [1, 1] on the device, empty: 1. On
  // a GPU this returns before it is done.
  void forward_backward(const HostBatch& batch, float scale, const Tensor& loss_scale, const Tensor& loss);
  // The sum alone, waited for.
  double loss(const HostBatch& batch);
  // f32 [rows, V] for chosen rows, on the device of ops.
  void logits(const HostBatch& batch, std::span<const int32_t> rows, const Tensor& out);

 private:
  struct LayerSlots {
    Arena::Slot x, attn_rstd, qkv, attn, lse, x_mid, mlp_rstd, gate_up;
  };
  struct LayerView;
  // The last block's second half runs on the rows that are asked for only, packed together: its attention
  // needs the others as keys and values, nothing after it does.
  struct Upload {
    HostBuffer host;
    std::unique_ptr<Mark> read;  // by the device
  };

  BatchView upload(const HostBatch& batch);
  void forward(const BatchView& batch);
  void backward(const BatchView& batch);
  LayerView layer_view(int64_t layer, const BatchView& batch) const;
  bool is_last(int64_t layer) const { return layer + 1 == static_cast<int64_t>(layers_.size()); }
  LmHead::Scratch head_scratch(int64_t rows) const;
  LinearGradients linear_gradients(int block, Role role, GradientState state) const;
  Tensor norm_gradient(int block, Role role, GradientState state) const;
  int64_t extension(int block, Role role) const;
  Linear linear(const WeightLease& lease, int block, Role role) const;

  const LlamaTensors& tensors_;
  Ops& ops_;
  ParamStore& store_;
  LlamaLimits limits_;
  Arena arena_;
  std::vector<LayerSlots> layers_;
  Arena::Slot x_out_, xn_, h_, dh_, dattn_, dqkv_, dxn_, dx_;
  Arena::Slot last_attn_, last_dattn_, last_dx_;
  Arena::Slot head_xn_, head_dxn_, head_rstd_, head_losses_, head_loss_, logits_;
  Arena::Slot indices_, rope_table_;
  std::array<Upload, 3> uploads_;  // in turn: copying the next batch need not wait for this one's step
  size_t next_upload_ = 0;
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
