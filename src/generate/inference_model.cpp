#include "llmft/generate/inference_model.hpp"

#include <algorithm>

#include "llmft/model/rope.hpp"

namespace llmft {
namespace {

LinearWeight weight(const WeightLease& lease, const Block& block, Role role) {
  return {lease[role], block.tensor(role).extension};
}

}  // namespace

InferenceModel::InferenceModel(const LlamaTensors& tensors, const Recipe& recipe, Ops& ops, DecodeOps& decode,
                               ParamStore& store, const InferenceLimits& limits)
    : tensors_(tensors),
      ops_(ops),
      decode_(decode),
      store_(store),
      limits_(limits),
      type_(recipe.compute),
      shape_{tensors.config().num_attention_heads, tensors.config().num_key_value_heads,
             tensors.config().head_dim},
      eps_(static_cast<float>(tensors.config().rms_norm_eps)) {
  const LlamaConfig& c = tensors.config();
  const Block& layer0 = tensors.block(tensors.layer_block(0));
  int64_t T = limits.max_rows, C = c.hidden_size, F = c.intermediate_size,
          HD = shape_.heads * shape_.head_dim;
  auto e = [&](Role role) { return layer0.tensor(role).extension; };
  auto rows = [&](const char* name, int64_t cols) {
    return arena_.reserve(name, MemoryPart::activations, type_, T, cols);
  };
  x_ = rows("x", C);
  xn_ = rows("xn", C + std::max(e(Role::qkv), e(Role::gate_up)));
  qkv_ = rows("qkv", layer0.tensor(Role::qkv).rows);
  attn_ = rows("attention", HD + e(Role::o));
  gate_up_ = rows("gate_up", 2 * F);
  h_ = rows("h", F + e(Role::down));
  lse_ = arena_.reserve("lse", MemoryPart::activations, DType::f32, T, shape_.heads);
  rstd_ = arena_.reserve("rstd", MemoryPart::activations, DType::f32, T, 1);
  int64_t R = limits.logits_rows;
  picked_ = arena_.reserve("picked x", MemoryPart::logits, type_, R, C);
  picked_xn_ = arena_.reserve("picked xn", MemoryPart::logits, type_, R, C);
  logits_ = arena_.reserve("logits", MemoryPart::logits, DType::f32, R, c.vocab_size);
  int64_t positions = std::max(limits.context, int64_t{1});
  rope_ = arena_.reserve("rope", MemoryPart::workspace, DType::f32, positions, c.head_dim);
  arena_.commit(ops.device());
  std::vector<float> table = rope_table(c, positions);
  ops.device().copy_to_device(arena_.view(rope_).data, table.data(), table.size() * sizeof(float));

  if (limits.slots == 0) return;
  int64_t cache_rows = limits.slots * shape_.kv_heads * limits.context;
  size_t bytes = static_cast<size_t>(cache_rows * c.head_dim) * size_of(type_);
  cache_buffer_ =
      Buffer(ops.device(), 2 * bytes * static_cast<size_t>(c.num_hidden_layers), MemoryPart::activations);
  // attention reads whole tiles: what lies past a sequence's end must be numbers
  ops.device().zero(cache_buffer_.data(), cache_buffer_.bytes());
  for (size_t i = 0; i < static_cast<size_t>(c.num_hidden_layers); ++i)
    caches_.push_back({cache_buffer_.view(type_, cache_rows, c.head_dim, 2 * i * bytes),
                       cache_buffer_.view(type_, cache_rows, c.head_dim, (2 * i + 1) * bytes),
                       limits.context});
}

void InferenceModel::fill_tail(const LinearWeight& w, Indices adapted, const Tensor& x_ext) {
  Tensor tail = x_ext.col_range(w.k(), w.extension);
  ops_.matmul(Layout::nt, x_ext.col_range(0, w.k()),
              w.w_ext.row_range(w.n(), w.extension).col_range(0, w.k()), tail);
  decode_.gate_rows(tail, adapted);
}

void InferenceModel::linear(const LinearWeight& w, Indices adapted, const Tensor& x_ext, const Tensor& y,
                            float beta, const Tensor& c) {
  bool extended = w.extension != 0 && adapted.size != 0;
  if (extended) fill_tail(w, adapted, x_ext);
  int64_t k = w.k() + (extended ? w.extension : 0);
  ops_.matmul(Layout::nt, x_ext.col_range(0, k), w.w_ext.row_range(0, w.n()).col_range(0, k), y, 1, beta, c);
}

void InferenceModel::attention_of(const RowBatch& batch, const KvCache& cache, const Tensor& qkv,
                                  const Tensor& out) {
  int64_t q = shape_.heads * shape_.head_dim, kv = shape_.kv_heads * shape_.head_dim;
  CacheRows rows{batch.slots, batch.positions};
  if (batch.slots.size != 0)
    decode_.rope_append(shape_, rows, arena_.view(rope_), qkv, cache);
  else
    ops_.rope(qkv.col_range(0, q + kv), batch.positions, arena_.view(rope_), Direction::forward);
  int64_t whole = batch.whole, others = qkv.rows - whole;
  if (whole != 0) {
    Tensor first = qkv.row_range(0, whole);
    ops_.attention(shape_, batch.cu_seqlens, first.col_range(0, q), first.col_range(q, kv),
                   first.col_range(q + kv, kv), out.row_range(0, whole), arena_.view(lse_, whole));
  }
  if (others != 0)
    decode_.attend(shape_, {{rows.slots.data + whole, others}, {rows.positions.data + whole, others}},
                   batch.longest, qkv.row_range(whole, others).col_range(0, q), cache,
                   out.row_range(whole, others));
}

void InferenceModel::layer(int64_t index, const RowBatch& batch) {
  int number = tensors_.layer_block(index);
  const Block& block = tensors_.block(number);
  WeightLease lease = store_.acquire(number);
  store_.prefetch(number + 1);
  int64_t T = batch.tokens.size;
  LinearWeight w_qkv = weight(lease, block, Role::qkv), w_o = weight(lease, block, Role::o),
               w_gate_up = weight(lease, block, Role::gate_up), w_down = weight(lease, block, Role::down);
  Tensor x = arena_.view(x_, T), xn = arena_.view(xn_, T), qkv = arena_.view(qkv_, T),
         attn = arena_.view(attn_, T), h = arena_.view(h_, T), rstd = arena_.view(rstd_, T).reshaped(1, T);
  KvCache none;
  const KvCache& cache = caches_.empty() ? none : caches_[static_cast<size_t>(index)];
  if (decode_.takes_rows(T, type_)) {
    decode_.norm_linear(x, lease[Role::attn_norm], eps_, w_qkv, batch.adapted, qkv);
    attention_of(batch, cache, qkv, attn.col_range(0, w_o.k()));
    decode_.linear_add(attn.col_range(0, w_o.k()), w_o, batch.adapted, x);
    decode_.norm_swiglu(x, lease[Role::mlp_norm], eps_, w_gate_up, batch.adapted, h.col_range(0, w_down.k()));
    decode_.linear_add(h.col_range(0, w_down.k()), w_down, batch.adapted, x);
    return;
  }
  ops_.norm(x, lease[Role::attn_norm], eps_, {}, xn.col_range(0, x.cols), rstd);
  linear(w_qkv, batch.adapted, xn, qkv, 0, {});
  attention_of(batch, cache, qkv, attn.col_range(0, w_o.k()));
  linear(w_o, batch.adapted, attn, x, 1, x);
  ops_.norm(x, lease[Role::mlp_norm], eps_, {}, xn.col_range(0, x.cols), rstd);
  Tensor gate_up = arena_.view(gate_up_, T);
  linear(w_gate_up, batch.adapted, xn, gate_up, 0, {});
  ops_.swiglu(gate_up, h.col_range(0, w_down.k()));
  linear(w_down, batch.adapted, h, x, 1, x);
}

void InferenceModel::forward(const RowBatch& batch) {
  int64_t T = batch.tokens.size;
  check(T > 0 && T <= limits_.max_rows && batch.positions.size == T, "batch larger than planned");
  check(batch.whole <= T && (batch.whole != 0) == (batch.cu_seqlens.size != 0) &&
            (batch.whole == T || batch.slots.size == T),
        "rows without a place to attend to");
  check(batch.longest <= limits_.context, "sequence longer than planned");
  {
    WeightLease lease = store_.acquire(tensors_.embedding_block());
    ops_.embed(batch.tokens, lease[Role::embedding], arena_.view(x_, T));
  }
  for (int64_t i = 0; i < tensors_.config().num_hidden_layers; ++i) layer(i, batch);
}

Tensor InferenceModel::logits(Indices rows) {
  int64_t R = rows.size;
  check(R > 0 && R <= limits_.logits_rows, "more logits than planned");
  WeightLease head = store_.acquire(tensors_.head_block());
  WeightLease output = store_.acquire(tensors_.lm_head_block());
  Tensor matrix = output[tensors_.lm_head_role()], norm = head[Role::final_norm];
  Tensor x = arena_.view(x_, R), out = arena_.view(logits_, R);
  if (rows.data != nullptr) {
    x = arena_.view(picked_, R);
    ops_.gather_rows(arena_.view(x_), rows, x);
  }
  if (decode_.takes_rows(R, type_)) {
    decode_.norm_linear(x, norm, eps_, {matrix, 0}, {}, out);
    return out;
  }
  Tensor xn = arena_.view(picked_xn_, R);
  ops_.norm(x, norm, eps_, {}, xn, arena_.view(rstd_, R).reshaped(1, R));
  ops_.matmul(Layout::nt, xn, matrix, out);
  return out;
}

void InferenceModel::losses(Indices rows, Indices targets, const Tensor& loss) {
  check(rows.size == targets.size && loss.cols == rows.size, "losses: shapes differ");
  for (int64_t first = 0; first < rows.size; first += limits_.logits_rows) {
    int64_t count = std::min(limits_.logits_rows, rows.size - first);
    Tensor chunk = logits({rows.data + first, count});
    ops_.cross_entropy(chunk, {targets.data + first, count}, 1, loss.col_range(first, count),
                       LossMode::loss_only);
  }
}

void InferenceModel::copy_prefix(int64_t from, int64_t to, int64_t count) {
  for (const KvCache& cache : caches_) decode_.copy_slot(shape_, cache, from, to, count);
}

}  // namespace llmft
