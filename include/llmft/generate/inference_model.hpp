// The Llama architecture forward only, for generation and scoring: rows of many sequences at once, with or
// without a cache of keys and values, each row by the base model's weights or with the adapter. One set of
// weights serves both (docs/decisions/0002): a base row's adapter columns are zero. Memory is planned at
// construction.
#pragma once

#include <vector>

#include "llmft/model/llama_tensors.hpp"
#include "llmft/model/param_store.hpp"
#include "llmft/ops/decode_ops.hpp"
#include "llmft/precision/recipe.hpp"

namespace llmft {

struct InferenceLimits {
  int64_t max_rows = 0;     // of a forward pass
  int64_t logits_rows = 0;  // of one call of logits()
  int64_t slots = 0;        // sequences in the cache; 0: no cache
  int64_t context = 0;      // longest sequence
};

// Rows on the device (ops/decode_ops.hpp).
struct RowBatch {
  Indices tokens;
  Indices positions;
  Indices slots;        // empty: keys and values are not kept
  Indices cu_seqlens;   // of the first `whole` rows: sequences that start at position 0 here, attention is
                        // within the batch
  Indices adapted;      // 0: base; empty: all base
  int64_t whole = 0;    // the rows after them: attention through the cache
  int64_t longest = 0;  // upper bound of positions + 1
};

class InferenceModel {
 public:
  InferenceModel(const LlamaTensors& tensors, const Recipe& recipe, Ops& ops, DecodeOps& decode,
                 ParamStore& store, const InferenceLimits& limits);

  // The last layer's output for every row stays here until the next call.
  void forward(const RowBatch& batch);
  // f32 [rows.size, V] of chosen rows, valid until the next call. Empty data: the first rows.size rows.
  Tensor logits(Indices rows);
  // loss[i] = -log p(targets[i]) by row rows[i]; f32 [1, rows.size]. The logits never exist as a whole.
  void losses(Indices rows, Indices targets, const Tensor& loss);
  // The first `count` keys and values of a sequence become another's.
  void copy_prefix(int64_t from, int64_t to, int64_t count);

  const InferenceLimits& limits() const { return limits_; }
  const LlamaTensors& tensors() const { return tensors_; }

 private:
  void layer(int64_t index, const RowBatch& batch);
  void attention_of(const RowBatch& batch, const KvCache& cache, const Tensor& qkv, const Tensor& out);
  // x_ext [T, K + e] with its first K columns set -> y = linear + beta c.
  void linear(const LinearWeight& w, Indices adapted, const Tensor& x_ext, const Tensor& y, float beta,
              const Tensor& c);
  void fill_tail(const LinearWeight& w, Indices adapted, const Tensor& x_ext);

  const LlamaTensors& tensors_;
  Ops& ops_;
  DecodeOps& decode_;
  ParamStore& store_;
  InferenceLimits limits_;
  DType type_;
  AttentionShape shape_;
  float eps_;
  Arena arena_;
  Arena::Slot x_, xn_, qkv_, attn_, lse_, gate_up_, h_, rstd_, picked_, picked_xn_, logits_, rope_;
  Buffer cache_buffer_;
  std::vector<KvCache> caches_;  // by layer
};

}  // namespace llmft
