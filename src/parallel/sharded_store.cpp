// FSDP, full_shard: between uses a rank holds only its slice of every block's flat arrays. A lease gathers
// the block into a pooled buffer; opened gradients are a pooled buffer too, reduced and scattered when the
// block is ready.
#include <map>

#include "gradient_tree.hpp"
#include "shard_ops.hpp"
#include "stores.hpp"

namespace llmft {
namespace {

// Buffers that come back are kept for the next block of the same size, so that a step allocates nothing after
// the first.
class Pool {
 public:
  Pool(Device& device, MemoryPart part) : device_(device), part_(part) {}
  Buffer take(size_t bytes) {
    auto it = free_.find(bytes);
    if (it == free_.end()) return Buffer(device_, bytes, part_);
    Buffer buffer = std::move(it->second);
    free_.erase(it);
    return buffer;
  }
  void give(Buffer buffer) {
    size_t bytes = buffer.bytes();
    if (bytes != 0) free_.emplace(bytes, std::move(buffer));
  }

 private:
  Device& device_;
  MemoryPart part_;
  std::multimap<size_t, Buffer> free_;
};

class ShardedStore final : public ParamStore {
 public:
  explicit ShardedStore(const StoreContext& context)
      : c_(context), pool_(c_.ops.device(), MemoryPart::gathered) {
    bool full = c_.tensors.full_fine_tuning();
    Device& device = c_.ops.device();
    int n = c_.comm.size();
    for (const Block& block : c_.tensors.blocks()) {
      Held h{ShardMap(block.frozen_numel, n, 64),
             ShardMap(block.trainable_numel, n, norm_chunk(block.trainable_numel)),
             {},
             {},
             {},
             {},
             {},
             {},
             0,
             {c_.ops, 0}};
      auto elements = static_cast<size_t>(h.trained_map.shard);
      h.frozen = Buffer(device, static_cast<size_t>(h.frozen_map.shard) * size_of(c_.recipe.compute),
                        MemoryPart::weights);
      h.master = Buffer(device, elements * sizeof(float), full ? MemoryPart::weights : MemoryPart::adapters);
      if (full && c_.recipe.compute != DType::f32)
        h.compute = Buffer(device, elements * size_of(c_.recipe.compute), MemoryPart::weights);
      h.gradient = Buffer(device, elements * sizeof(float), MemoryPart::gradients);
      h.tree = GradientTree(c_.ops, h.trained_map.shard);
      device.zero(h.master.data(), h.master.bytes());
      device.zero(h.frozen.data(), h.frozen.bytes());
      held_.push_back(std::move(h));
    }
  }

  const LlamaTensors& tensors() const override { return c_.tensors; }
  Device& device() override { return c_.ops.device(); }
  bool replicated() const override { return false; }

  WeightLease acquire(int block) override {
    Held& h = held(block);
    DType compute = c_.recipe.compute;
    if (h.leases++ == 0) {
      bool full = c_.tensors.full_fine_tuning();
      const Buffer& shard = full ? (h.compute.bytes() != 0 ? h.compute : h.master) : h.frozen;
      h.gathered = gather(shard, compute);
      if (!full && h.master.bytes() != 0) {
        Buffer masters = gather(h.master, DType::f32);
        write_adapters(c_.ops, c_.tensors, block, flat(h.gathered, compute), flat(masters));
        pool_.give(std::move(masters));
      }
    }
    Tensor whole = flat(h.gathered, compute);
    return {*this, block, whole, whole};
  }
  void prefetch(int) override {}

  void zero_gradients() override {
    for (Held& h : held_) {
      c_.ops.device().zero(h.gradient.data(), h.gradient.bytes());
      h.tree.clear();
    }
  }

  GradientState open_gradients(int block) override {
    Held& h = held(block);
    if (h.master.bytes() == 0) return GradientState::undefined;
    h.opened = pool_.take(h.master.bytes() * static_cast<size_t>(c_.comm.size()));
    c_.ops.device().zero(h.opened.data(), h.opened.bytes());
    return GradientState::undefined;
  }

  void gradients_ready(int block) override {
    Held& h = held(block);
    if (h.master.bytes() == 0) return;
    Buffer shard = pool_.take(h.gradient.bytes());
    if (c_.reduction == Reduction::tree) {
      Buffer scratch = pool_.take(h.opened.bytes());
      tree_reduce_scatter(c_.ops, c_.comm, flat(h.opened), flat(shard), flat(scratch));
      pool_.give(std::move(scratch));
      h.tree.add(flat(shard));
    } else {
      c_.comm.reduce_scatter(flat(h.opened), flat(shard));
      c_.ops.add(flat(shard), flat(h.gradient));
    }
    pool_.give(std::move(shard));
    pool_.give(std::move(h.opened));
    h.opened = Buffer();
  }

  void finish_gradients() override {
    if (c_.reduction == Reduction::fast) return;
    for (Held& h : held_) {
      if (h.gradient.bytes() == 0) continue;
      Tensor total = h.tree.total();
      c_.ops.device().copy(h.gradient.data(), total.data, total.bytes());
    }
  }

  ShardRange local_range(int block) const override {
    return held_[static_cast<size_t>(block)].trained_map.range(c_.comm.rank());
  }
  Tensor local_master(int block) override { return trained(block, held(block).master); }
  Tensor local_gradient(int block) override { return trained(block, held(block).gradient); }

  Tensor local_compute(int block) override {
    const Buffer& compute = held(block).compute;
    if (compute.bytes() == 0) return {};
    ShardRange range = local_range(block);
    return flat(compute, c_.recipe.compute).col_range(0, range.end - range.begin);
  }

  void publish(Stale stale) override {
    if (stale != Stale::compute) return;
    for (Held& h : held_)
      if (h.compute.bytes() != 0) c_.ops.convert(flat(h.master), flat(h.compute, c_.recipe.compute));
  }

  void set_frozen(int block, std::span<const std::byte> frozen) override {
    Held& h = held(block);
    size_t width = size_of(c_.recipe.compute);
    check(frozen.size() == static_cast<size_t>(h.frozen_map.numel) * width, "frozen weights of another size");
    ShardRange range = h.frozen_map.range(c_.comm.rank());
    auto mine = frozen.subspan(static_cast<size_t>(range.begin) * width,
                               static_cast<size_t>(range.end - range.begin) * width);
    c_.ops.device().copy_to_device(h.frozen.data(), mine.data(), mine.size());
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
    Buffer whole = gather(h.master, DType::f32);
    c_.ops.device().copy_to_host(out.data(), whole.data(), out.size() * sizeof(float));
    pool_.give(std::move(whole));
    return out;
  }

 protected:
  void release(int block) override {
    Held& h = held(block);
    if (--h.leases == 0) {
      pool_.give(std::move(h.gathered));
      h.gathered = Buffer();
    }
  }
  Tensor gradient_flat(int block) const override { return flat(held_[static_cast<size_t>(block)].opened); }

 private:
  struct Held {
    ShardMap frozen_map;
    ShardMap trained_map;
    Buffer frozen, master, compute, gradient;  // this rank's slices
    Buffer gathered;                           // the whole block while leased
    Buffer opened;                             // the whole block's gradients while open
    int leases = 0;
    GradientTree tree;
  };

  Held& held(int block) { return held_[static_cast<size_t>(block)]; }
  Tensor trained(int block, const Buffer& buffer) const {
    ShardRange range = local_range(block);
    return flat(buffer).col_range(0, range.end - range.begin);
  }
  Buffer gather(const Buffer& shard, DType dtype) {
    Buffer whole = pool_.take(shard.bytes() * static_cast<size_t>(c_.comm.size()));
    c_.comm.all_gather(flat(shard, dtype), flat(whole, dtype));
    return whole;
  }

  StoreContext c_;
  Pool pool_;
  std::vector<Held> held_;
};

}  // namespace

std::unique_ptr<ParamStore> make_sharded_store(const StoreContext& context) {
  return std::make_unique<ShardedStore>(context);
}

void check_strategy(Strategy strategy, Reduction reduction, int ranks) {
  if (reduction == Reduction::tree && (ranks & (ranks - 1)) != 0)
    user_error(
        "--deterministic: {} ranks (the summation tree needs a power of two); use 1, 2, 4, 8, ... ranks",
        ranks);
  if (strategy == Strategy::none && ranks > 1)
    user_error("--strategy none: is for one rank, and {} were started; use --strategy ddp or fsdp", ranks);
  if (strategy == Strategy::hsdp) user_error("--strategy hsdp: not in this version yet; use fsdp");
}

std::unique_ptr<ParamStore> make_param_store(Strategy strategy, const StoreContext& context) {
  check_strategy(strategy, context.reduction, context.comm.size());
  return strategy == Strategy::fsdp ? make_sharded_store(context) : make_replicated_store(context);
}

}  // namespace llmft
