// FSDP and HSDP: between uses a rank holds only its slice of every block's master, gradient and moments, and
// under full_shard of its weights. Layers are gathered into a few slots, two ahead of their use; what there
// is only one of (the embedding, the head) would be in its slot all the time and is held whole instead.
//
// A LoRA block's slice of frozen weights has its part of the adapter columns too, so a gathered block is
// complete. publish() brings them up to date, in the slices and in the slots: frozen weights stay gathered
// over the end of a step.
//
// Between publish() and finish_gradients() no rank writes its slices, and the others copy them by themselves
// where they can (PeerMemory); a collective at either end sees to that. Elsewhere all gather together.
#include <algorithm>
#include <vector>

#include "gather_slots.hpp"
#include "gradient_exchange.hpp"
#include "llmft/comm/peer_memory.hpp"
#include "shard_ops.hpp"
#include "stores.hpp"

namespace llmft {
namespace {

constexpr int kSlots = 3;  // the layer in use and the two after it

class ShardedStore final : public ParamStore {
 public:
  ShardedStore(const StoreContext& context, int group)
      : c_(context),
        group_(context.comm.size() == group ? nullptr : context.comm.split(context.comm.rank() / group)),
        copies_(group_ == nullptr ? nullptr : context.comm.split(context.comm.rank() % group)),
        shards_(group_ == nullptr ? context.comm : *group_),
        pool_(c_.ops.device(), shards_, MemoryPart::gathered),
        gradients_(c_.ops, shards_, copies_.get(), c_.reduction, pool_) {
    std::vector<int> kinds = count_kinds();
    for (int b = 0; b < c_.tensors.block_count(); ++b) build(b, kinds[static_cast<size_t>(held_.size())]);
    gradients_.plan(c_.tensors.full_fine_tuning() ? GradientExchange::Amount::weights
                                                  : GradientExchange::Amount::adapters);
    mark_ = Buffer(c_.ops.device(), sizeof(float), MemoryPart::gathered);
    c_.ops.device().zero(mark_.data(), mark_.bytes());
    share_slices();
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
    wait_for(slot);
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

  void zero_gradients(int64_t) override { gradients_.clear(); }

  GradientState open_gradients(int block) override {
    if (held(block).trained_map.numel == 0) return GradientState::undefined;
    gradients_.open(block);
    if (!c_.tensors.full_fine_tuning()) {
      Tensor opened = gradients_.opened(block);
      c_.ops.device().zero(opened.data, opened.bytes());
    }
    return GradientState::undefined;
  }
  void gradients_ready(int block) override {
    if (held(block).trained_map.numel != 0) gradients_.ready(block);
  }
  void finish_gradients() override {
    if (peers_ != nullptr) {
      published_ = false;
      peers_->wait_all();
    }
    gradients_.finish();
    if (peers_ != nullptr) shards_.all_reduce(flat(mark_));  // nobody reads what is written from now on
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
  Tensor local_master(int block) override { return trained(block, flat(held(block).master)); }
  Tensor local_gradient(int block) override { return trained(block, gradients_.slice(block)); }

  Tensor local_compute(int block) override {
    Held& h = held(block);
    Tensor mine = compute_slice(h);
    ShardRange range = local_range(block);
    return mine ? mine.col_range(0, range.end - range.begin) : mine;
  }

  // What the optimizer has done with travels while it does the rest.
  void updated(int block) override {
    if (c_.tensors.full_fine_tuning()) show(block);
  }

  void publish(Stale stale) override {
    if (c_.tensors.full_fine_tuning())
      publish_weights(stale);
    else
      publish_adapters();
    if (peers_ == nullptr) return;
    peers_->after(shards_.start_all_reduce(flat(mark_)));  // all have written
    published_ = true;
  }

  void set_frozen(int block, std::span<const std::byte> frozen) override {
    published_ = false;
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
    published_ = false;
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
    Buffer whole = gradients_.take_whole(block);  // between tensors masters are zero too
    shards_.all_gather(flat(h.master), flat(whole));
    c_.ops.device().copy_to_host(out.data(), whole.data(), out.size() * sizeof(float));
    gradients_.give_whole(block, std::move(whole));
    return out;
  }

 protected:
  void release(int block) override {
    if (held(block).slots != nullptr) --held(block).slots->find(block)->leases;
  }
  Tensor gradient_flat(int block) const override { return gradients_.opened(block); }

 private:
  void publish_weights(Stale stale) {
    for (int b = 0; b < c_.tensors.block_count(); ++b) {
      if (stale == Stale::compute) {
        Tensor mine = compute_slice(held(b));
        if (mine) c_.ops.convert(flat(held(b).master), mine);
        show(b);
      } else if (!held(b).shown) {
        show(b);
      }
      held(b).shown = false;
    }
  }

  struct Held {
    ShardMap frozen_map, trained_map;
    // This rank's slices. slice: of what is gathered, in the compute dtype; none where that is the master
    // itself (f32 masters), or where the block is held whole.
    Buffer master, slice;
    std::shared_ptr<GatherSlots> slots;  // null: held whole, in weights
    Buffer weights;
    Started gathering;   // of weights
    int shared = -1;     // number of what is gathered into slots, among what peers_ shares
    bool shown = false;  // updated() was called for what publish() will be
  };

  Held& held(int block) { return held_[static_cast<size_t>(block)]; }
  Tensor trained(int block, const Tensor& slice) const {
    ShardRange range = local_range(block);
    return slice.col_range(0, range.end - range.begin);
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
    h.frozen_map = ShardMap(block.frozen_numel, n, 64);
    h.trained_map = ShardMap(block.trainable_numel, n, norm_chunk(block.trainable_numel));
    auto zeroed = [&](int64_t elements, DType dtype, MemoryPart part) {
      Buffer buffer(device, static_cast<size_t>(elements) * size_of(dtype), part);
      device.zero(buffer.data(), buffer.bytes());
      return buffer;
    };
    h.master = zeroed(h.trained_map.shard, DType::f32, full ? MemoryPart::weights : MemoryPart::adapters);
    gradients_.add_block(h.trained_map, kind);
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
      Tensor whole = flat(slot->buffer, compute);
      wait_for(*slot);  // if what was in it was never used, it may still be arriving, from elsewhere
      slot->copied = published_ && peers_ != nullptr;
      slot->gathering = slot->copied ? peers_->start_gather(static_cast<size_t>(h.shared), whole)
                                     : shards_.start_all_gather(flat(slice, compute), whole);
      slot->block = block;
    }
    if (ahead && slot->leases == 0) slot->expected = true;
    h.slots->touch(*slot);
    return slot;
  }

  void wait_for(const GatherSlots::Slot& slot) {
    if (slot.copied)
      peers_->wait(slot.gathering);
    else
      shards_.wait(slot.gathering);
  }

  // What is gathered into slots, so that it may be copied instead.
  void share_slices() {
    std::vector<Tensor> slices;
    for (Held& h : held_) {
      if (h.slots == nullptr) continue;
      h.shared = static_cast<int>(slices.size());
      slices.push_back(flat(h.slice.bytes() != 0 ? h.slice : h.master, c_.recipe.compute));
    }
    if (!slices.empty()) peers_ = shards_.share(slices);
  }

  // Full fine-tuning: this rank's slice of what is gathered, empty where that is the master itself.
  Tensor compute_slice(Held& h) {
    DType compute = c_.recipe.compute;
    if (!c_.tensors.full_fine_tuning() || h.master.bytes() == 0) return {};
    if (h.slots == nullptr)
      return flat(h.weights, compute).col_range(shards_.rank() * h.trained_map.shard, h.trained_map.shard);
    return h.slice.bytes() == 0 ? Tensor{} : flat(h.slice, compute);
  }

  // Full fine-tuning: the block's weights, written by all ranks, become those that leases show. What the next
  // step needs first is gathered at once: blocks held whole, and the first layers; slots are then in use for
  // what is asked for last.
  void show(int block) {
    Held& h = held(block);
    h.shown = true;
    if (h.slots != nullptr) {
      h.slots->forget(block);
      int64_t layers = std::min<int64_t>(kSlots - 1, c_.tensors.config().num_hidden_layers);
      int first = c_.tensors.layer_block(0);
      if (block >= first && block < first + layers) bring(block, /*ahead=*/true);
    } else if (Tensor mine = compute_slice(h)) {
      h.gathering = shards_.start_all_gather(mine, flat(h.weights, c_.recipe.compute));
    }
  }

  // Masters come in groups as gradients go: one collective for many small ones.
  void publish_adapters() {
    std::vector<int> group;
    size_t bytes = 0;
    for (int b = 0; b < c_.tensors.block_count(); ++b) {
      if (held(b).master.bytes() != 0) {
        group.push_back(b);
        bytes += gradients_.whole_bytes(b);
      }
      if (group.empty() || (bytes < gradients_.group_bytes() && b + 1 < c_.tensors.block_count())) continue;
      std::vector<Buffer> masters;
      for (int member : group) masters.push_back(gradients_.take_whole(member));
      shards_.wait(shards_.start_together("all_gather", bytes, [&] {
        for (size_t i = 0; i < group.size(); ++i)
          shards_.start_all_gather(flat(held(group[i]).master), flat(masters[i]));
      }));
      std::vector<Conversion> adapters;
      for (size_t i = 0; i < group.size(); ++i) list_block(group[i], flat(masters[i]), adapters);
      c_.ops.convert_each(adapters);
      for (size_t i = 0; i < group.size(); ++i) gradients_.give_whole(group[i], std::move(masters[i]));
      group.clear();
      bytes = 0;
    }
  }

  void list_block(int block, const Tensor& masters, std::vector<Conversion>& adapters) {
    Held& h = held(block);
    DType compute = c_.recipe.compute;
    auto write = [&](const Tensor& to, int64_t begin) {
      list_adapters(c_.tensors, block, to, begin, masters, adapters);
    };
    if (h.slots == nullptr) {
      write(flat(h.weights, compute), 0);
      return;
    }
    GatherSlots::Slot* slot = h.slots->find(block);
    if (slot != nullptr) wait_for(*slot);  // from the slice that is written now
    write(flat(h.slice, compute), shards_.rank() * h.frozen_map.shard);
    if (slot != nullptr) write(flat(slot->buffer, compute), 0);
  }

  StoreContext c_;
  std::unique_ptr<Comm> group_,
      copies_;  // hsdp: the ranks of this copy; those with this slice of other copies
  Comm& shards_;
  Pool pool_;
  GradientExchange gradients_;
  std::map<int, int> blocks_of_kind_;
  std::map<int, std::shared_ptr<GatherSlots>> slots_;
  std::vector<Held> held_;
  Buffer mark_;                        // of no meaning: what is reduced where all have to meet
  std::unique_ptr<PeerMemory> peers_;  // null: slices are gathered by collectives alone
  bool published_ = false;             // nobody writes slices
  int previous_ = 0;                   // block acquired last
};

}  // namespace

std::unique_ptr<ParamStore> make_sharded_store(const StoreContext& context, int group) {
  return std::make_unique<ShardedStore>(context, group);
}

}  // namespace llmft
