#include "llmft/model/llama.hpp"

#include <algorithm>

#include "llmft/model/rope.hpp"

namespace llmft {

struct Llama::LayerView {
  AttentionBlock::Saved attention;
  AttentionBlock::Scratch attention_scratch;
  MlpBlock::Saved mlp;
  MlpBlock::Scratch mlp_scratch;
};

Llama::Llama(const LlamaTensors& tensors, const Recipe& recipe, Ops& ops, ParamStore& store,
             const LlamaLimits& limits)
    : tensors_(tensors), ops_(ops), store_(store), limits_(limits) {
  const LlamaConfig& c = tensors.config();
  const Block& layer0 = tensors.block(tensors.layer_block(0));
  int64_t T = limits.max_tokens;
  int64_t C = c.hidden_size, F = c.intermediate_size, D = c.head_dim, HD = c.num_attention_heads * D;
  int64_t N = layer0.tensor(Role::qkv).rows;
  int64_t e_qkv = layer0.tensor(Role::qkv).extension, e_o = layer0.tensor(Role::o).extension;
  int64_t e_gu = layer0.tensor(Role::gate_up).extension, e_down = layer0.tensor(Role::down).extension;
  DType s = recipe.compute;
  limits_.logits_chunk = std::min(limits.logits_chunk, T);

  auto activation = [&](const char* name, int64_t cols) {
    return arena_.reserve(name, MemoryPart::activations, s, T, cols);
  };
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    LayerSlots slots;
    slots.x = activation("x", C);
    slots.qkv = activation("qkv", N);
    slots.attn = activation("attention", HD + e_o);
    slots.lse = arena_.reserve("lse", MemoryPart::activations, DType::f32, T, c.num_attention_heads);
    slots.x_mid = activation("x_mid", C);
    slots.gate_up = activation("gate_up", 2 * F + e_gu);
    layers_.push_back(slots);
  }
  x_out_ = activation("x_out", C);

  auto scratch = [&](const char* name, int64_t cols, DType dtype) {
    return arena_.reserve(name, MemoryPart::workspace, dtype, T, cols);
  };
  xn_ = scratch("xn", C + std::max(e_qkv, e_gu), s);
  h_ = scratch("h", F + e_down, s);
  dh_ = scratch("dh", F, s);
  dattn_ = scratch("dattn", HD + e_o, s);  // rows as far apart as the outputs', which a GPU library asks for
  dqkv_ = scratch("dqkv", N + e_qkv, s);
  dxn_ = scratch("dxn", C, s);
  dx_ = scratch("dx", C + std::max(e_o, e_down), s);
  rstd_ = scratch("rstd", 1, DType::f32);

  auto logits_part = [&](const char* name, int64_t rows, int64_t cols, DType dtype) {
    return arena_.reserve(name, MemoryPart::logits, dtype, rows, cols);
  };
  head_x_ = logits_part("scored x", T, C, s);
  head_xn_ = logits_part("scored xn", T, C, s);
  head_dxn_ = logits_part("scored dxn", T, C, s);
  head_dx_ = logits_part("scored dx", T, C, s);
  head_rstd_ = logits_part("scored rstd", T, 1, DType::f32);
  head_loss_ = logits_part("loss", T, 1, DType::f32);
  logits_ = logits_part("logits", limits_.logits_chunk, c.vocab_size, s);

  auto index = [&](const char* name, int64_t n) {
    return arena_.reserve(name, MemoryPart::workspace, DType::i32, 1, n);
  };
  tokens_ = index("tokens", T);
  positions_ = index("positions", T);
  cu_seqlens_ = index("cu_seqlens", T + 1);
  loss_rows_ = index("loss_rows", T);
  targets_ = index("targets", T);
  rope_table_ = arena_.reserve("rope", MemoryPart::workspace, DType::f32, T, D);
  arena_.commit(ops.device());

  std::vector<float> table = rope_table(c, T);
  ops.device().copy_to_device(arena_.view(rope_table_).data, table.data(), table.size() * sizeof(float));
  auto eps = static_cast<float>(c.rms_norm_eps);
  attention_ = {{c.num_attention_heads, c.num_key_value_heads, D}, eps, arena_.view(rope_table_)};
  mlp_ = {eps};
  head_ = {eps};
}

BatchView Llama::upload(const HostBatch& batch) {
  auto T = static_cast<int64_t>(batch.tokens.size());
  check(T > 0 && T <= limits_.max_tokens, "micro-batch larger than planned");
  check(batch.positions.size() == batch.tokens.size() && batch.loss_rows.size() == batch.targets.size() &&
            batch.loss_rows.size() <= batch.tokens.size() && batch.cu_seqlens.size() >= 2,
        "micro-batch is inconsistent");
  auto put = [&](Arena::Slot slot, std::span<const int32_t> values) {
    Tensor t = arena_.view(slot);
    ops_.device().copy_to_device(t.data, values.data(), values.size_bytes());
    return Indices{static_cast<const int32_t*>(t.data), static_cast<int64_t>(values.size())};
  };
  return {put(tokens_, batch.tokens), put(positions_, batch.positions), put(cu_seqlens_, batch.cu_seqlens),
          put(loss_rows_, batch.loss_rows), put(targets_, batch.targets)};
}

int64_t Llama::extension(int block, Role role) const {
  return tensors_.block(block).tensor(role).extension;
}

Linear Llama::linear(const WeightLease& lease, int block, Role role) const {
  return {lease[role], extension(block, role)};
}

Llama::LayerView Llama::layer_view(int64_t layer, int64_t tokens) const {
  const LayerSlots& s = layers_[static_cast<size_t>(layer)];
  int block = tensors_.layer_block(layer);
  int64_t C = tensors_.config().hidden_size;
  auto view = [&](Arena::Slot slot) { return arena_.view(slot, tokens); };
  Tensor rstd = view(rstd_).reshaped(1, tokens);
  Tensor xn = view(xn_);
  LayerView v;
  v.attention = {view(s.x), view(s.qkv), view(s.attn), view(s.lse)};
  v.attention_scratch = {xn.col_range(0, C + extension(block, Role::qkv)), rstd, view(dqkv_),
                         view(dattn_).col_range(0, v.attention.attn.cols - extension(block, Role::o)),
                         view(dxn_)};
  v.mlp = {view(s.x_mid), view(s.gate_up)};
  v.mlp_scratch = {xn.col_range(0, C + extension(block, Role::gate_up)), rstd, view(h_), view(dh_),
                   view(dxn_)};
  return v;
}

void Llama::forward(const BatchView& batch) {
  int64_t T = batch.tokens.size;
  {
    WeightLease lease = store_.acquire(tensors_.embedding_block());
    store_.prefetch(tensors_.layer_block(0));
    ops_.embed(batch.tokens, lease[Role::embedding], arena_.view(layers_[0].x, T));
  }
  auto count = static_cast<int64_t>(layers_.size());
  for (int64_t i = 0; i < count; ++i) {
    int block = tensors_.layer_block(i);
    WeightLease lease = store_.acquire(block);
    store_.prefetch(block + 1);
    LayerView v = layer_view(i, T);
    Tensor x_out = arena_.view(i + 1 < count ? layers_[static_cast<size_t>(i) + 1].x : x_out_, T);
    attention_.forward(
        ops_, batch, {lease[Role::attn_norm], linear(lease, block, Role::qkv), linear(lease, block, Role::o)},
        v.attention, v.attention_scratch, v.mlp.x_mid);
    mlp_.forward(
        ops_, {lease[Role::mlp_norm], linear(lease, block, Role::gate_up), linear(lease, block, Role::down)},
        v.mlp, v.mlp_scratch, x_out);
  }
}

LinearGradients Llama::linear_gradients(int block, Role role) const {
  LinearGradients out;
  const Block& b = tensors_.block(block);
  const PackedTensor& packed = b.tensor(role);
  out.scale = tensors_.full_fine_tuning() ? 1 : static_cast<float>(tensors_.adapter().scale());
  for (size_t i = 0; i < b.trainables.size(); ++i) {
    const Trainable& t = b.trainables[i];
    if (&b.tensors[static_cast<size_t>(t.tensor)] != &packed) continue;
    const Member& member = packed.members[static_cast<size_t>(t.member)];
    Tensor gradient = store_.gradient(block, i);
    if (t.kind == TrainableKind::weight) {
      // the members of a packed linear lie one after another: the first one's start is the whole's
      if (t.member == 0) out.dw = Tensor{gradient.data, DType::f32, packed.rows, packed.cols, packed.cols};
    } else if (t.kind == TrainableKind::lora_a) {
      out.adapters.push_back({member.row, member.adapter_col, gradient, {}});
    } else {
      out.adapters.back().db = gradient;
    }
  }
  return out;
}

Tensor Llama::norm_gradient(int block, Role role) const {
  return linear_gradients(block, role).dw;
}

LmHead::Scratch Llama::head_scratch(int64_t rows) const {
  auto row = [&](Arena::Slot slot) { return arena_.view(slot, rows).reshaped(1, rows); };
  return {arena_.view(head_x_, rows),
          arena_.view(head_xn_, rows),
          arena_.view(head_dxn_, rows),
          arena_.view(head_dx_, rows),
          row(head_rstd_),
          row(head_loss_),
          arena_.view(logits_)};
}

void Llama::backward(const BatchView& batch) {
  int64_t T = batch.tokens.size;
  int64_t C = tensors_.config().hidden_size;
  Tensor dx = arena_.view(dx_, T);
  bool full = tensors_.full_fine_tuning();
  for (int64_t i = static_cast<int64_t>(layers_.size()) - 1; i >= 0; --i) {
    int block = tensors_.layer_block(i);
    WeightLease lease = store_.acquire(block);
    store_.prefetch(block - 1);
    store_.open_gradients(block);
    LayerView v = layer_view(i, T);
    Linear o = linear(lease, block, Role::o);
    mlp_.backward(
        ops_, {lease[Role::mlp_norm], linear(lease, block, Role::gate_up), linear(lease, block, Role::down)},
        {norm_gradient(block, Role::mlp_norm), linear_gradients(block, Role::gate_up),
         linear_gradients(block, Role::down)},
        v.mlp, v.mlp_scratch, dx, o.sb());
    attention_.backward(ops_, batch, {lease[Role::attn_norm], linear(lease, block, Role::qkv), o},
                        {norm_gradient(block, Role::attn_norm), linear_gradients(block, Role::qkv),
                         linear_gradients(block, Role::o)},
                        v.attention, v.attention_scratch, dx.col_range(0, C + o.e()), full || i > 0);
    store_.gradients_ready(block);
  }
  int embedding = tensors_.embedding_block();
  if (full) {
    if (!tensors_.config().tie_word_embeddings) store_.open_gradients(embedding);
    ops_.embed_backward(batch.tokens, dx.col_range(0, C), store_.gradient(embedding, 0));
    store_.gradients_ready(embedding);
  }
}

double Llama::forward_backward(const HostBatch& host, float scale) {
  check(!host.loss_rows.empty(), "a micro-batch without supervised tokens");
  BatchView batch = upload(host);
  forward(batch);
  int64_t T = batch.tokens.size, C = tensors_.config().hidden_size;
  int head = tensors_.head_block(), output = tensors_.lm_head_block();
  double loss = 0;
  {
    WeightLease head_lease = store_.acquire(head);
    WeightLease output_lease = store_.acquire(output);
    LmHead::Gradients gradients;
    store_.open_gradients(head);
    if (tensors_.full_fine_tuning()) {
      if (output != head) store_.open_gradients(output);
      gradients = {norm_gradient(head, Role::final_norm),
                   linear_gradients(output, tensors_.lm_head_role()).dw};
    }
    loss = head_.loss_and_gradient(ops_, batch,
                                   {head_lease[Role::final_norm], output_lease[tensors_.lm_head_role()]},
                                   gradients, head_scratch(batch.loss_rows.size), arena_.view(x_out_, T),
                                   scale, arena_.view(dx_, T).col_range(0, C));
    store_.gradients_ready(head);
  }
  backward(batch);
  return loss;
}

double Llama::loss(const HostBatch& host) {
  if (host.loss_rows.empty()) return 0;
  BatchView batch = upload(host);
  forward(batch);
  WeightLease head_lease = store_.acquire(tensors_.head_block());
  WeightLease output_lease = store_.acquire(tensors_.lm_head_block());
  return head_.loss(ops_, batch, {head_lease[Role::final_norm], output_lease[tensors_.lm_head_role()]},
                    head_scratch(batch.loss_rows.size), arena_.view(x_out_, batch.tokens.size));
}

void Llama::logits(const HostBatch& host, std::span<const int32_t> rows, const Tensor& out) {
  BatchView batch = upload(host);
  forward(batch);
  WeightLease head_lease = store_.acquire(tensors_.head_block());
  WeightLease output_lease = store_.acquire(tensors_.lm_head_block());
  Tensor list = arena_.view(loss_rows_);
  check(static_cast<int64_t>(rows.size()) <= list.cols, "more rows than tokens");
  ops_.device().copy_to_device(list.data, rows.data(), rows.size_bytes());
  head_.logits(ops_, {static_cast<const int32_t*>(list.data), static_cast<int64_t>(rows.size())},
               {head_lease[Role::final_norm], output_lease[tensors_.lm_head_role()]},
               head_scratch(limits_.max_tokens), arena_.view(x_out_, batch.tokens.size), out);
}

double training_flops(const LlamaTensors& tensors, double tokens, double loss_rows, double sum_len_squared) {
  const LlamaConfig& c = tensors.config();
  bool full = tensors.full_fine_tuning();
  double layer_weights = 0;
  double adapter_weights = 0;
  for (const Block& block : tensors.blocks()) {
    for (const PackedTensor& t : block.tensors)
      if (t.role == Role::qkv || t.role == Role::o || t.role == Role::gate_up || t.role == Role::down)
        layer_weights += static_cast<double>(t.rows * t.cols);
    for (const Trainable& t : block.trainables)
      if (t.kind != TrainableKind::weight) adapter_weights += static_cast<double>(t.numel());
  }
  double passes = full ? 3 : 2;
  double head = static_cast<double>(c.vocab_size * c.hidden_size);
  double attention =
      (4.0 + 10.0) / 2 * static_cast<double>(c.num_attention_heads * c.head_dim * c.num_hidden_layers);
  return 2 * passes * (layer_weights * tokens + head * loss_rows) + 2 * 3 * adapter_weights * tokens +
         attention * sum_len_squared;
}

}  // namespace llmft
