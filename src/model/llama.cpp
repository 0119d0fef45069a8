#include "llmft/model/llama.hpp"

#include <algorithm>

#include "llmft/model/rope.hpp"

namespace llmft {
namespace {

constexpr int64_t kIndexLists = 5;
constexpr int64_t kIndexPad = 64;

}  // namespace

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
  auto per_row = [&](const char* name, MemoryPart part) {
    return arena_.reserve(name, part, DType::f32, T, 1);
  };
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    LayerSlots slots;
    slots.x = activation("x", C);
    slots.attn_rstd = per_row("attention rstd", MemoryPart::activations);
    slots.qkv = activation("qkv", N);
    slots.attn = activation("attention", HD + e_o);
    slots.lse = arena_.reserve("lse", MemoryPart::activations, DType::f32, T, c.num_attention_heads);
    slots.x_mid = activation("x_mid", C);
    slots.mlp_rstd = per_row("mlp rstd", MemoryPart::activations);
    slots.gate_up = activation("gate_up", 2 * F + e_gu);
    layers_.push_back(slots);
  }
  last_attn_ = activation("last attention", HD + e_o);
  x_out_ = activation("x_out", C);

  auto scratch = [&](const char* name, int64_t cols, const char* share = "") {
    return arena_.reserve(name, MemoryPart::workspace, s, T, cols, share);
  };
  xn_ = scratch("xn", C + std::max(e_qkv, e_gu));
  h_ = scratch("h", F + e_down);
  dh_ = scratch("dh", F);
  dattn_ = scratch("dattn", HD + e_o);  // rows as far apart as the outputs', which a GPU library asks for
  dqkv_ = scratch("dqkv", N + e_qkv, "dqkv");
  last_dattn_ = scratch("last dattn", HD, "dqkv");
  dxn_ = scratch("dxn", C);
  dx_ = scratch("dx", C + std::max(e_o, e_down));

  auto logits_part = [&](const char* name, int64_t rows, int64_t cols, const char* share = "") {
    return arena_.reserve(name, MemoryPart::logits, s, rows, cols, share);
  };
  head_xn_ = logits_part("scored xn", T, C);
  head_dxn_ = logits_part("scored dxn", T, C);
  last_dx_ = logits_part("last dx", T, C + std::max(e_o, e_down));
  head_rstd_ = per_row("scored rstd", MemoryPart::logits);
  head_losses_ = per_row("losses", MemoryPart::logits);
  head_loss_ = arena_.reserve("loss", MemoryPart::logits, DType::f64, 1, 1);
  logits_ = logits_part("logits", limits_.logits_chunk, c.vocab_size);

  indices_ = arena_.reserve("indices", MemoryPart::workspace, DType::i32, 1, kIndexLists * (T + kIndexPad));
  rope_table_ = arena_.reserve("rope", MemoryPart::workspace, DType::f32, T, D);
  arena_.commit(ops.device());
  for (Upload& upload : uploads_) {
    upload.host = HostBuffer(ops.device(), arena_.view(indices_).bytes());
    upload.read = ops.device().make_mark();
  }

  if (!ops.device().is_dry()) {
    std::vector<float> table = rope_table(c, T);
    ops.device().copy_to_device(arena_.view(rope_table_).data, table.data(), table.size() * sizeof(float));
  }
  auto eps = static_cast<float>(c.rms_norm_eps);
  attention_ = {{c.num_attention_heads, c.num_key_value_heads, D}, eps, arena_.view(rope_table_)};
  mlp_ = {eps};
  head_ = {eps};
}

// One copy for all lists of a batch, each from a multiple of 256 bytes on.
BatchView Llama::upload(const HostBatch& batch) {
  auto T = static_cast<int64_t>(batch.tokens.size());
  check(T > 0 && T <= limits_.max_tokens, "micro-batch larger than planned");
  check(batch.positions.size() == batch.tokens.size() && batch.loss_rows.size() == batch.targets.size() &&
            batch.loss_rows.size() <= batch.tokens.size() && batch.cu_seqlens.size() >= 2 &&
            batch.cu_seqlens.size() <= batch.tokens.size() + 1,
        "micro-batch is inconsistent");
  Upload& upload = uploads_[next_upload_];
  next_upload_ = (next_upload_ + 1) % uploads_.size();
  upload.read->wait();
  auto* host = static_cast<int32_t*>(upload.host.data());
  auto* device = static_cast<int32_t*>(arena_.view(indices_).data);
  int64_t used = 0;
  auto put = [&](std::span<const int32_t> values) {
    std::copy(values.begin(), values.end(), host + used);
    Indices list{device + used, static_cast<int64_t>(values.size())};
    used += (list.size + kIndexPad - 1) / kIndexPad * kIndexPad;
    return list;
  };
  BatchView view{put(batch.tokens), put(batch.positions), put(batch.cu_seqlens), put(batch.loss_rows),
                 put(batch.targets)};
  ops_.device().copy_to_device(device, host, static_cast<size_t>(used) * sizeof(int32_t));
  upload.read->record();
  return view;
}

int64_t Llama::extension(int block, Role role) const {
  return tensors_.block(block).tensor(role).extension;
}

Linear Llama::linear(const WeightLease& lease, int block, Role role) const {
  return {lease[role], extension(block, role)};
}

Llama::LayerView Llama::layer_view(int64_t layer, const BatchView& batch) const {
  const LayerSlots& s = layers_[static_cast<size_t>(layer)];
  int block = tensors_.layer_block(layer);
  int64_t C = tensors_.config().hidden_size, T = batch.tokens.size;
  int64_t R = is_last(layer) ? batch.loss_rows.size : T;  // rows of the second half
  auto view = [&](Arena::Slot slot) { return arena_.view(slot, T); };
  auto rows = [&](Arena::Slot slot) { return arena_.view(slot, R); };
  LayerView v;
  v.attention = {view(s.x), view(s.attn_rstd).reshaped(1, T), view(s.qkv), view(s.attn), view(s.lse)};
  v.attention_scratch = {view(xn_).col_range(0, C + extension(block, Role::qkv)), view(dqkv_),
                         view(dattn_).col_range(0, v.attention.attn.cols - extension(block, Role::o)),
                         view(dxn_)};
  v.mlp = {rows(s.x_mid), rows(s.mlp_rstd).reshaped(1, R), rows(s.gate_up)};
  v.mlp_scratch = {rows(xn_).col_range(0, C + extension(block, Role::gate_up)), rows(h_), rows(dh_),
                   rows(dxn_)};
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
    LayerView v = layer_view(i, batch);
    Tensor x_out = is_last(i) ? arena_.view(x_out_, batch.loss_rows.size)
                              : arena_.view(layers_[static_cast<size_t>(i) + 1].x, T);
    Linear o = linear(lease, block, Role::o);
    attention_.attend(ops_, batch, {lease[Role::attn_norm], linear(lease, block, Role::qkv), o}, v.attention,
                      v.attention_scratch);
    Tensor attn = v.attention.attn, x = v.attention.x;
    if (is_last(i)) {
      attn = arena_.view(last_attn_, batch.loss_rows.size);
      x = v.mlp.x_mid;
      ops_.gather_rows(v.attention.attn.col_range(0, o.k()), batch.loss_rows, attn.col_range(0, o.k()));
      ops_.gather_rows(v.attention.x, batch.loss_rows, x);
    }
    AttentionBlock::project(ops_, o, attn, x, v.mlp.x_mid);
    mlp_.forward(
        ops_, {lease[Role::mlp_norm], linear(lease, block, Role::gate_up), linear(lease, block, Role::down)},
        v.mlp, v.mlp_scratch, x_out);
  }
}

LinearGradients Llama::linear_gradients(int block, Role role, GradientState state) const {
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
      out.dw_fresh = state == GradientState::undefined;
      // the members of a packed linear lie one after another: the first one's start is the whole's
      if (t.member == 0) out.dw = Tensor{gradient.data, DType::f32, packed.rows, packed.cols, packed.cols};
    } else if (t.kind == TrainableKind::lora_a) {
      out.adapters.push_back({member.row, member.adapter_col, gradient, {}});
    } else {
      for (LinearGradients::Adapter& adapter : out.adapters)
        if (adapter.col == member.adapter_col) adapter.db = gradient;
    }
  }
  return out;
}

// Norms add to theirs.
Tensor Llama::norm_gradient(int block, Role role, GradientState state) const {
  Tensor dw = linear_gradients(block, role, state).dw;
  if (dw && state == GradientState::undefined) ops_.device().zero(dw.data, dw.bytes());
  return dw;
}

LmHead::Scratch Llama::head_scratch(int64_t rows) const {
  auto row = [&](Arena::Slot slot) { return arena_.view(slot, rows).reshaped(1, rows); };
  return {arena_.view(head_xn_, rows), arena_.view(head_dxn_, rows), row(head_rstd_), row(head_losses_),
          arena_.view(logits_)};
}

// last_dx_ holds the gradient of the last layer's output on its rows.
void Llama::backward(const BatchView& batch) {
  int64_t T = batch.tokens.size;
  int64_t C = tensors_.config().hidden_size;
  Tensor dx = arena_.view(dx_, T);
  bool full = tensors_.full_fine_tuning();
  for (int64_t i = static_cast<int64_t>(layers_.size()) - 1; i >= 0; --i) {
    int block = tensors_.layer_block(i);
    WeightLease lease = store_.acquire(block);
    store_.prefetch(block - 1);
    GradientState state = store_.open_gradients(block);
    LayerView v = layer_view(i, batch);
    Linear o = linear(lease, block, Role::o);
    Tensor rows_dx = is_last(i) ? arena_.view(last_dx_, batch.loss_rows.size) : dx;
    mlp_.backward(
        ops_, {lease[Role::mlp_norm], linear(lease, block, Role::gate_up), linear(lease, block, Role::down)},
        {norm_gradient(block, Role::mlp_norm, state), linear_gradients(block, Role::gate_up, state),
         linear_gradients(block, Role::down, state)},
        v.mlp, v.mlp_scratch, rows_dx, o.sb());
    Tensor attn = v.attention.attn, dattn = v.attention_scratch.dattn;
    if (is_last(i)) {
      attn = arena_.view(last_attn_, batch.loss_rows.size);
      dattn = arena_.view(last_dattn_, batch.loss_rows.size);
    }
    LinearGradients o_gradients = linear_gradients(block, Role::o, state);
    AttentionBlock::project_backward(ops_, o, o_gradients, attn, rows_dx.col_range(0, C + o.e()), dattn);
    if (is_last(i)) {
      ops_.scatter_rows(dattn, batch.loss_rows, v.attention_scratch.dattn);
      ops_.scatter_rows(rows_dx.col_range(0, C), batch.loss_rows, dx.col_range(0, C));
    }
    attention_.attend_backward(ops_, batch, {lease[Role::attn_norm], linear(lease, block, Role::qkv), o},
                               {norm_gradient(block, Role::attn_norm, state),
                                linear_gradients(block, Role::qkv, state), o_gradients},
                               v.attention, v.attention_scratch, dx.col_range(0, C), full || i > 0);
    store_.gradients_ready(block);
  }
  int embedding = tensors_.embedding_block();
  if (full) {
    if (!tensors_.config().tie_word_embeddings) {
      GradientState state = store_.open_gradients(embedding);
      Tensor gradient = store_.gradient(embedding, 0);
      if (state == GradientState::undefined) ops_.device().zero(gradient.data, gradient.bytes());
    }
    ops_.embed_backward(batch.tokens, dx.col_range(0, C), store_.gradient(embedding, 0));
    store_.gradients_ready(embedding);
  }
}

void Llama::forward_backward(const HostBatch& host, float scale, const Tensor& loss_scale,
                             const Tensor& loss) {
  check(!host.loss_rows.empty(), "a micro-batch without supervised tokens");
  BatchView batch = upload(host);
  forward(batch);
  int64_t C = tensors_.config().hidden_size, R = batch.loss_rows.size;
  int head = tensors_.head_block(), output = tensors_.lm_head_block();
  {
    WeightLease head_lease = store_.acquire(head);
    WeightLease output_lease = store_.acquire(output);
    LmHead::Gradients gradients;
    GradientState head_state = store_.open_gradients(head);
    if (tensors_.full_fine_tuning()) {
      GradientState state = output == head ? head_state : store_.open_gradients(output);
      LinearGradients matrix = linear_gradients(output, tensors_.lm_head_role(), state);
      gradients = {norm_gradient(head, Role::final_norm, head_state), matrix.dw, matrix.dw_fresh};
    }
    Tensor dx = arena_.view(last_dx_, R);
    ops_.device().zero(dx.data, dx.bytes());
    head_.loss_and_gradient(
        ops_, batch.targets, {head_lease[Role::final_norm], output_lease[tensors_.lm_head_role()]}, gradients,
        head_scratch(R), arena_.view(x_out_, R), scale, loss_scale, dx.col_range(0, C), loss);
    store_.gradients_ready(head);
  }
  backward(batch);
}

double Llama::loss(const HostBatch& host) {
  if (host.loss_rows.empty()) return 0;
  BatchView batch = upload(host);
  forward(batch);
  WeightLease head_lease = store_.acquire(tensors_.head_block());
  WeightLease output_lease = store_.acquire(tensors_.lm_head_block());
  Tensor sum = arena_.view(head_loss_);
  head_.loss(ops_, batch.targets, {head_lease[Role::final_norm], output_lease[tensors_.lm_head_role()]},
             head_scratch(batch.loss_rows.size), arena_.view(x_out_, batch.loss_rows.size), sum);
  double loss = 0;
  ops_.device().copy_to_host(&loss, sum.data, sizeof loss);
  ops_.device().synchronize();
  return loss;
}

void Llama::logits(const HostBatch& host, std::span<const int32_t> rows, const Tensor& out) {
  HostBatch asked = host;
  asked.loss_rows = asked.targets = rows;  // which rows go through to the end; nothing is scored
  BatchView batch = upload(asked);
  forward(batch);
  WeightLease head_lease = store_.acquire(tensors_.head_block());
  WeightLease output_lease = store_.acquire(tensors_.lm_head_block());
  head_.logits(ops_, {head_lease[Role::final_norm], output_lease[tensors_.lm_head_role()]},
               head_scratch(batch.loss_rows.size), arena_.view(x_out_, batch.loss_rows.size), out);
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
