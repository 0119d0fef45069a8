// FSDP and HSDP: between uses a rank holds only its slice of every block's master, gradient and moments, and
// under full_shard of its weights. Layers are gathered into a few slots, two ahead of their use; what there
// is only one of (the embedding, the head) would be in its slot all the time and is held whole instead.
//
// A LoRA block's slice of frozen weights has its part of the adapter columns too, so a gathered block is
// complete. publish() brings them up to date, in the slices and in the slots: frozen weights stay gathered
// over the end of a step.
#include <algorithm>
#include <deque>

#include "gather_slots.hpp"
#include "gradient_tree.hpp"
#include "shard_ops.hpp"
#include "stores.hpp"

namespace llmft {
namespace {

constexpr int kSlots = 3;                 // the layer in use and the two after it
constexpr size_t kGradientsUnderWay = 2;  // blocks whose gradients may be travelling
constexpr size_t kMastersUnderWay = 3;

class ShardedStore final : public ParamStore {
 public:
  ShardedStore(const StoreContext& context, int group)
      : c_(context),
        group_(context.comm.size() == group ? nullptr : context.comm.split(context.comm.rank() / group)),
        copies_(group_ == nullptr ? nullptr : context.comm.split(context.comm.rank() % group)),
        shards_(group_ == nullptr ? context.comm : *group_),
        pool_(c_.ops.device(), shards_, MemoryPart::gathered) {
    std::vector<int> kinds = count_kinds();
    for (int b = 0; b < c_.tensors.block_count(); ++b) build(b, kinds[static_cast<size_t>(held_.size())]);
  }

  const LlamaTensors& tensors() const override { return c_.tensors; }
  Device& device() override { return c_.ops.device(); }
  bool replicated() const override { return false; }
  void sum_over_shards(const Tensor& values) override { shards_.all_reduce(values); }

  WeightLease acquire(int block) override {
    Held& h = held(block);
    previous_ = block;
    if (h.slots == nullptr) {
      shards_.wait(h.gathering);
      Tensor whole = flat(h.weights, c_.recipe.compute);
      return {*this, block, whole, whole};
    }
    GatherSlots::Slot& slot = *bring(block, /*ahead=*/false);
    ++slot.leases;
    slot.expected = false;
    h.slots->touch(slot);
    shards_.wait(slot.gathering);
    Tensor whole = flat(slot.buffer, c_.recipe.compute);
    return {*this, block, whole, whole};
  }

  // The next block and the one after it in the same direction.
  void prefetch(int block) override {
    int last = c_.tensors.block_count() - 1;
    int further = block + (block - previous_);
    for (int b : {block, further})
      if (b >= 0 && b <= last && held(b).slots != nullptr) bring(b, /*ahead=*/true);
  }

  void zero_gradients(int64_t) override {
    for (Held& h : held_) {
      h.fresh = true;
      h.tree->clear();
    }
  }

  // A buffer that was used before was another block's of the same layout, so that the space between tensors
  // is still zero.
  GradientState open_gradients(int block) override {
    Held& h = held(block);
    if (h.trained_map.numel == 0) return GradientState::undefined;
    h.opened = pool_.take(whole_gradient_bytes(h), h.kind);
    if (!c_.tensors.full_fine_tuning()) c_.ops.device().zero(h.opened.data(), h.opened.bytes());
    return GradientState::undefined;
  }

  // The sum over ranks runs beside the next blocks' backward pass; what it needs is kept until settle().
  void gradients_ready(int block) override {
    Held& h = held(block);
    if (h.trained_map.numel == 0) return;
    Travelling t{block, {}, {}};
    if (c_.reduction == Reduction::tree) {
      t.arriving = pool_.take(whole_gradient_bytes(h));
      t.sum = shards_.start_all_to_all(flat(h.opened), flat(t.arriving));
    } else if (h.fresh) {
      t.sum = shards_.start_reduce_scatter(flat(h.opened), flat(h.gradient));
      h.fresh = false;
    } else {
      t.arriving = pool_.take(h.gradient.bytes());
      t.sum = shards_.start_reduce_scatter(flat(h.opened), flat(t.arriving));
    }
    pool_.give(std::move(h.opened), h.kind, t.sum);
    h.opened = Buffer();
    travelling_.push_back(std::move(t));
    while (travelling_.size() > kGradientsUnderWay) settle();
  }

  void finish_gradients() override {
    while (!travelling_.empty()) settle();
    for (Held& h : held_) {
      if (h.trained_map.numel == 0) continue;
      if (c_.reduction == Reduction::tree) {
        // of a slice each copy's rank has summed its piece
        Tensor sum = h.tree->total(), gradient = flat(h.gradient);
        Tensor mine = gradient.col_range(copy_rank() * sum.numel(), sum.numel());
        c_.ops.device().copy(mine.data, sum.data, sum.bytes());
        if (copies_ != nullptr) copies_->all_gather(mine, gradient);
      } else if (h.fresh) {
        c_.ops.device().zero(h.gradient.data(), h.gradient.bytes());
      }
    }
    if (copies_ == nullptr || c_.reduction == Reduction::tree) return;
    Started last;
    for (Held& h : held_)
      if (h.trained_map.numel != 0) last = copies_->start_all_reduce(flat(h.gradient));
    copies_->wait(last);
  }

  ShardRange local_range(int block) const override {
    return held_[static_cast<size_t>(block)].trained_map.range(shards_.rank());
  }
  // The ranks with the same slice share the work of writing it.
  ShardRange written_range(int block) const override {
    ShardRange range = local_range(block);
    int64_t length = range.end - range.begin;
    int64_t copies = copies_ == nullptr ? 1 : copies_->size(),
            mine = copies_ == nullptr ? 0 : copies_->rank();
    return {range.begin + length * mine / copies, range.begin + length * (mine + 1) / copies};
  }
  Tensor local_master(int block) override { return trained(block, held(block).master); }
  Tensor local_gradient(int block) override { return trained(block, held(block).gradient); }

  Tensor local_compute(int block) override {
    Held& h = held(block);
    Tensor mine = compute_slice(h);
    ShardRange range = local_range(block);
    return mine ? mine.col_range(0, range.end - range.begin) : mine;
  }

  void publish(Stale stale) override {
    if (c_.tensors.full_fine_tuning())
      publish_weights(stale);
    else
      publish_adapters();
  }

  void set_frozen(int block, std::span<const std::byte> frozen) override {
    Held& h = held(block);
    size_t width = size_of(c_.recipe.compute);
    check(frozen.size() == static_cast<size_t>(h.frozen_map.numel) * width, "frozen weights of another size");
    ShardRange range =
        h.slots == nullptr ? ShardRange{0, h.frozen_map.numel} : h.frozen_map.range(shards_.rank());
    auto mine = frozen.subspan(static_cast<size_t>(range.begin) * width,
                               static_cast<size_t>(range.end - range.begin) * width);
    const Buffer& to = h.slots == nullptr ? h.weights : h.slice;
    c_.ops.device().copy_to_device(to.data(), mine.data(), mine.size());
    if (h.slots != nullptr) h.slots->forget_all();
  }
  void set_master(int block, std::span<const float> master) override {
    Held& h = held(block);
    check(static_cast<int64_t>(master.size()) == h.trained_map.numel, "masters of another size");
    ShardRange range = local_range(block);
    auto mine =
        master.subspan(static_cast<size_t>(range.begin), static_cast<size_t>(range.end - range.begin));
    c_.ops.device().copy_to_device(h.master.data(), mine.data(), mine.size_bytes());
  }
  std::vector<float> read_master(int block) override {
    Held& h = held(block);
    std::vector<float> out(static_cast<size_t>(h.trained_map.numel));
    if (out.empty()) return out;
    Buffer whole = pool_.take(whole_gradient_bytes(h), h.kind);  // between tensors masters are zero too
    shards_.all_gather(flat(h.master), flat(whole));
    c_.ops.device().copy_to_host(out.data(), whole.data(), out.size() * sizeof(float));
    pool_.give(std::move(whole), h.kind);
    return out;
  }

 protected:
  void release(int block) override {
    if (held(block).slots != nullptr) --held(block).slots->find(block)->leases;
  }
  Tensor gradient_flat(int block) const override { return flat(held_[static_cast<size_t>(block)].opened); }

 private:
  struct Held {
    ShardMap frozen_map, trained_map;
    int kind = 0;  // the first block with the same layout
    // This rank's slices. slice: of what is gathered, in the compute dtype; none where that is the master
    // itself (f32 masters), or where the block is held whole.
    Buffer master, gradient, slice;
    std::shared_ptr<GatherSlots> slots;  // null: held whole, in weights
    Buffer weights;
    Started gathering;  // of weights
    Buffer opened;      // the whole block's gradients while open
    bool fresh = true;  // no gradient of this step is in `gradient`
    std::unique_ptr<GradientTree> tree;
  };
  struct Travelling {
    int block;
    Started sum;
    Buffer arriving;  // none: the gradient itself
  };

  Held& held(int block) { return held_[static_cast<size_t>(block)]; }
  int64_t copy_count() const { return copies_ == nullptr ? 1 : copies_->size(); }
  int64_t copy_rank() const { return copies_ == nullptr ? 0 : copies_->rank(); }
  size_t whole_gradient_bytes(const Held& h) const {
    return h.gradient.bytes() * static_cast<size_t>(shards_.size());
  }
  Tensor trained(int block, const Buffer& buffer) const {
    ShardRange range = local_range(block);
    return flat(buffer).col_range(0, range.end - range.begin);
  }

  std::vector<int> count_kinds() {
    auto same = [](const Block& a, const Block& b) {
      bool equal = a.frozen_numel == b.frozen_numel && a.trainable_numel == b.trainable_numel &&
                   a.trainables.size() == b.trainables.size();
      for (size_t i = 0; equal && i < a.trainables.size(); ++i)
        equal = a.trainables[i].offset == b.trainables[i].offset &&
                a.trainables[i].numel() == b.trainables[i].numel();
      return equal;
    };
    std::vector<int> kinds;
    for (const Block& block : c_.tensors.blocks()) {
      int kind = 0;
      while (kind < static_cast<int>(kinds.size()) && !same(c_.tensors.block(kind), block)) ++kind;
      kinds.push_back(kind);
      ++blocks_of_kind_[kind];
    }
    return kinds;
  }

  // Slots for a kind of `count` blocks: fewer than would take what sharding saves; 0: hold the blocks whole.
  int slot_count(int count) const {
    if (c_.mode == FsdpMode::shard_grad_op) return 0;
    int n = shards_.size();
    return std::min(kSlots, (count * (n - 1) - 1) / n);
  }

  void build(int index, int kind) {
    const Block& block = c_.tensors.block(index);
    bool full = c_.tensors.full_fine_tuning();
    Device& device = c_.ops.device();
    DType compute = c_.recipe.compute;
    int n = shards_.size();
    Held h;
    h.kind = kind;
    h.frozen_map = ShardMap(block.frozen_numel, n, 64);
    h.trained_map = ShardMap(block.trainable_numel, n, norm_chunk(block.trainable_numel));
    auto zeroed = [&](int64_t elements, DType dtype, MemoryPart part) {
      Buffer buffer(device, static_cast<size_t>(elements) * size_of(dtype), part);
      device.zero(buffer.data(), buffer.bytes());
      return buffer;
    };
    h.master = zeroed(h.trained_map.shard, DType::f32, full ? MemoryPart::weights : MemoryPart::adapters);
    h.gradient = zeroed(h.trained_map.shard, DType::f32, MemoryPart::gradients);
    check(c_.reduction == Reduction::fast || h.trained_map.shard % copy_count() == 0,
          "more copies than a slice has pieces");
    h.tree = std::make_unique<GradientTree>(c_.ops, h.trained_map.shard / copy_count());
    const ShardMap& map = full ? h.trained_map : h.frozen_map;
    int slots = slot_count(blocks_of_kind_[kind]);
    if (slots <= 0) {
      h.weights = zeroed(map.padded(n), compute, MemoryPart::weights);
    } else {
      if (!full || compute != DType::f32) h.slice = zeroed(map.shard, compute, MemoryPart::weights);
      std::shared_ptr<GatherSlots>& shared = slots_[kind];
      if (shared == nullptr)
        shared = std::make_shared<GatherSlots>(device, static_cast<size_t>(map.padded(n)) * size_of(compute),
                                               static_cast<size_t>(slots));
      h.slots = shared;
    }
    held_.push_back(std::move(h));
  }

  // The block's slot, its gathering begun. ahead: null where that would cost what is needed sooner.
  GatherSlots::Slot* bring(int block, bool ahead) {
    Held& h = held(block);
    GatherSlots::Slot* slot = h.slots->find(block);
    if (slot == nullptr) {
      slot = h.slots->free_slot(ahead);
      if (slot == nullptr) return nullptr;
      DType compute = c_.recipe.compute;
      const Buffer& slice = h.slice.bytes() != 0 ? h.slice : h.master;
      slot->gathering = shards_.start_all_gather(flat(slice, compute), flat(slot->buffer, compute));
      slot->block = block;
    }
    if (ahead && slot->leases == 0) slot->expected = true;
    h.slots->touch(*slot);
    return slot;
  }

  // The oldest block whose gradients travel: waits for them and adds them up.
  void settle() {
    Travelling t = std::move(travelling_.front());
    travelling_.pop_front();
    shards_.wait(t.sum);
    Held& h = held(t.block);
    if (c_.reduction == Reduction::tree) {
      Tensor mine = tree_sum(c_.ops, flat(t.arriving), shards_.size());
      if (copies_ != nullptr) {
        Buffer of_groups = pool_.take(h.gradient.bytes());
        copies_->all_to_all(mine, flat(of_groups));
        h.tree->add(tree_sum(c_.ops, flat(of_groups), copies_->size()));
        pool_.give(std::move(of_groups));
      } else {
        h.tree->add(mine);
      }
    } else if (t.arriving.bytes() != 0) {
      c_.ops.add(flat(t.arriving), flat(h.gradient));
    }
    pool_.give(std::move(t.arriving));
  }

  // Full fine-tuning: this rank's slice of what is gathered, empty where that is the master itself.
  Tensor compute_slice(Held& h) {
    DType compute = c_.recipe.compute;
    if (!c_.tensors.full_fine_tuning() || h.master.bytes() == 0) return {};
    if (h.slots == nullptr)
      return flat(h.weights, compute).col_range(shards_.rank() * h.trained_map.shard, h.trained_map.shard);
    return h.slice.bytes() == 0 ? Tensor{} : flat(h.slice, compute);
  }

  // Blocks held whole are gathered at once, in the order of their use; the others' slots are out of date.
  void publish_weights(Stale stale) {
    for (auto& [kind, slots] : slots_) slots->forget_all();
    for (Held& h : held_) {
      Tensor mine = compute_slice(h);
      if (mine && stale == Stale::compute) c_.ops.convert(flat(h.master), mine);
      if (h.slots == nullptr && mine)
        h.gathering = shards_.start_all_gather(mine, flat(h.weights, c_.recipe.compute));
    }
    for (int64_t layer = 0; layer < std::min<int64_t>(2, c_.tensors.config().num_hidden_layers); ++layer)
      if (int b = c_.tensors.layer_block(layer); held(b).slots != nullptr) bring(b, /*ahead=*/true);
  }

  void publish_adapters() {
    struct Arriving {
      int block;
      Started gathering;
      Buffer masters;
    };
    std::deque<Arriving> arriving;
    auto write_oldest = [&] {
      Arriving a = std::move(arriving.front());
      arriving.pop_front();
      shards_.wait(a.gathering);
      write_block(a.block, flat(a.masters));
      pool_.give(std::move(a.masters));
    };
    for (int b = 0; b < c_.tensors.block_count(); ++b) {
      Held& h = held(b);
      if (h.master.bytes() == 0) continue;
      Buffer masters = pool_.take(whole_gradient_bytes(h));
      Started gathering = shards_.start_all_gather(flat(h.master), flat(masters));
      arriving.push_back({b, gathering, std::move(masters)});
      if (arriving.size() >= kMastersUnderWay) write_oldest();
    }
    while (!arriving.empty()) write_oldest();
  }

  void write_block(int block, const Tensor& masters) {
    Held& h = held(block);
    DType compute = c_.recipe.compute;
    auto write = [&](const Tensor& to, int64_t begin) {
      write_adapters(c_.ops, c_.tensors, block, to, begin, masters);
    };
    if (h.slots == nullptr) {
      write(flat(h.weights, compute), 0);
      return;
    }
    GatherSlots::Slot* slot = h.slots->find(block);
    if (slot != nullptr) shards_.wait(slot->gathering);  // from the slice that is written now
    write(flat(h.slice, compute), shards_.rank() * h.frozen_map.shard);
    if (slot != nullptr) write(flat(slot->buffer, compute), 0);
  }

  StoreContext c_;
  std::unique_ptr<Comm> group_,
      copies_;  // hsdp: the ranks of this copy; those with this slice of other copies
  Comm& shards_;
  Pool pool_;
  std::map<int, int> blocks_of_kind_;
  std::map<int, std::shared_ptr<GatherSlots>> slots_;
  std::vector<Held> held_;
  std::deque<Travelling> travelling_;
  int previous_ = 0;  // block acquired last
};

}  // namespace

std::unique_ptr<ParamStore> make_sharded_store(const StoreContext& context, int group) {
  return std::make_unique<ShardedStore>(context, group);
}

}  // namespace llmft
