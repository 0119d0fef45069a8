// What generation needs beside the training step's vocabulary (ops/ops.hpp, whose conventions hold here):
// a cache of keys and values, attention through it, linear layers for a few rows, sampling. The CPU backend
// is the oracle.
//
// Rows. A forward pass has T rows; row t is the token at positions[t] of the sequence in slots[t]. A
// sequence's rows are given in order of position and leave no gap. Slot -1: a row that pads the batch; it
// writes no keys and its results mean nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "llmft/device/device.hpp"
#include "llmft/ops/ops.hpp"
#include "llmft/tensor/tensor.hpp"

namespace llmft {

// One layer's keys (after RoPE) and values, [slots * kv_heads * context, head_dim] each: row
// (slot * kv_heads + head) * context + position.
struct KvCache {
  Tensor k;
  Tensor v;
  int64_t context = 0;
};

struct CacheRows {
  Indices slots;
  Indices positions;
};

// A linear layer as it is stored (ops/ops.hpp): W_ext [N + e, K + e].
struct LinearWeight {
  Tensor w_ext;
  int64_t extension = 0;

  int64_t n() const { return w_ext.rows - extension; }
  int64_t k() const { return w_ext.cols - extension; }
};

// How a row's next token is drawn, in device memory. Order: repetition penalty on the logits; greedy if
// temperature is 0; else logits / temperature, top-k, top-p on what is left, min-p on what is left of that,
// as transformers orders its warpers. Tokens of equal probability at a cut stay together.
struct SampleRow {
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float penalty = 1;
  int32_t top_k = 0;        // 0: all
  int32_t seen = -1;        // row of the table of seen tokens; -1: no penalty, no record
  uint32_t random_low = 0;  // 64 random bits
  uint32_t random_high = 0;
};
static_assert(sizeof(SampleRow) == 32);

// One bit a token of the vocabulary, 32 to a word: i32 [rows, words].
constexpr int64_t seen_words(int64_t vocabulary) {
  return (vocabulary + 31) / 32;
}

// Work that is done again and again on the same memory, which must outlive this: a GPU records it.
class StepRecords {
 public:
  virtual ~StepRecords() = default;
  // Runs work, which calls ops on the device only and always does the same for the same key. The first time
  // it runs as it is.
  virtual void run(uint64_t key, const std::function<void()>& work) = 0;
};

class DecodeOps {
 public:
  virtual ~DecodeOps() = default;
  virtual Device& device() = 0;

  // q and k of qkv [T, (H + 2 Hk) D] are rotated in place (Ops::rope); k and v go to the cache.
  virtual void rope_append(const AttentionShape& shape, const CacheRows& rows, const Tensor& table,
                           const Tensor& qkv, const KvCache& cache) = 0;
  // out[t] = attention of q[t] over positions 0..positions[t] of its slot. q, out [T, H D]. longest: an upper
  // bound of positions + 1.
  virtual void attend(const AttentionShape& shape, const CacheRows& rows, int64_t longest, const Tensor& q,
                      const KvCache& cache, const Tensor& out) = 0;
  // Positions 0..count of slot `from` copied to slot `to`.
  virtual void copy_slot(const AttentionShape& shape, const KvCache& cache, int64_t from, int64_t to,
                         int64_t count) = 0;

  // Rows of tail [T, e] whose entry of wanted is 0 become 0: the base model's rows in a batch with an
  // adapter's.
  virtual void gate_rows(const Tensor& tail, Indices wanted) = 0;

  // The next three, for a few rows, where reading the weights is all the work; an adapter is used on rows
  // whose entry of adapted is not 0, and nowhere where adapted is empty. True: this backend has something
  // better than Ops' products for so many rows of this type.
  virtual bool takes_rows(int64_t rows, DType type) const = 0;
  // y [T, N] = linear(norm(x)). y may be f32.
  virtual void norm_linear(const Tensor& x, const Tensor& norm, float eps, const LinearWeight& w,
                           Indices adapted, const Tensor& y) = 0;
  // h [T, F] = silu(gate) * up, with [gate | up] = linear(norm(x)).
  virtual void norm_swiglu(const Tensor& x, const Tensor& norm, float eps, const LinearWeight& w,
                           Indices adapted, const Tensor& h) = 0;
  // y [T, N] += linear(x).
  virtual void linear_add(const Tensor& x, const LinearWeight& w, Indices adapted, const Tensor& y) = 0;

  // tokens[t] = the next token by rows[t]; it is recorded in `seen`, and penalised if it was. logits f32 [T,
  // V]; rows, tokens: [T] in device memory.
  virtual void sample(const Tensor& logits, const SampleRow* rows, const Tensor& seen, int32_t* tokens) = 0;

  // Records of what calls these ops, and goes before them.
  virtual std::unique_ptr<StepRecords> make_records() = 0;
  // Work runs beside the host, which waits when it copies results: it may launch a step ahead.
  virtual bool asynchronous() const = 0;
};

std::unique_ptr<DecodeOps> make_cpu_decode_ops(Device& device, int threads);

}  // namespace llmft
