// DDP, and one rank: every rank holds everything, gradients are summed over ranks, and each rank does the
// same update.
#include <bit>

#include "gradient_tree.hpp"
#include "shard_ops.hpp"
#include "stores.hpp"

namespace llmft {
namespace {

class ReplicatedStore final : public ParamStore {
 public:
  explicit ReplicatedStore(const StoreContext& context) : c_(context) {
    bool full = c_.tensors.full_fine_tuning();
    Device& device = c_.ops.device();
    for (const Block& block : c_.tensors.blocks()) {
      Held h{ShardMap(block.trainable_numel, c_.comm.size(), norm_chunk(block.trainable_numel)),
             {},
             {},
             {},
             {},
             {},
             {},
             {c_.ops, 0},
             GradientState::undefined};
      auto elements = static_cast<size_t>(h.map.padded(c_.comm.size()));
      MemoryPart part = full ? MemoryPart::weights : MemoryPart::adapters;
      h.frozen = Buffer(device, static_cast<size_t>(block.frozen_numel) * size_of(c_.recipe.compute),
                        MemoryPart::weights);
      h.master = Buffer(device, elements * sizeof(float), part);
      if (full && c_.recipe.compute != DType::f32)
        h.compute = Buffer(device, elements * size_of(c_.recipe.compute), MemoryPart::weights);
      h.gradient = Buffer(device, elements * sizeof(float), MemoryPart::gradients);
      if (c_.reduction == Reduction::tree) {
        h.tree = GradientTree(c_.ops, h.map.padded(c_.comm.size()));
        if (c_.comm.size() > 1) {
          h.exchange = Buffer(device, elements * sizeof(float), MemoryPart::gathered);
          h.shard = Buffer(device, static_cast<size_t>(h.map.shard) * sizeof(float), MemoryPart::gathered);
        }
      }
      device.zero(h.master.data(), h.master.bytes());
      device.zero(h.frozen.data(), h.frozen.bytes());
      device.zero(h.gradient.data(), h.gradient.bytes());  // the space between tensors stays so
      held_.push_back(std::move(h));
    }
  }

  const LlamaTensors& tensors() const override { return c_.tensors; }
  Device& device() override { return c_.ops.device(); }
  bool replicated() const override { return true; }

  WeightLease acquire(int block) override {
    Held& h = held(block);
    return {*this, block, flat(h.frozen, c_.recipe.compute),
            h.compute.bytes() != 0 ? flat(h.compute, c_.recipe.compute) : flat(h.master)};
  }
  void prefetch(int) override {}

  void zero_gradients() override {
    for (Held& h : held_) {
      h.state = GradientState::undefined;
      h.tree.clear();
    }
  }

  GradientState open_gradients(int block) override {
    Held& h = held(block);
    GradientState state = h.state;
    if (state == GradientState::undefined && !c_.tensors.full_fine_tuning())
      c_.ops.device().zero(h.gradient.data(), h.gradient.bytes());
    if (c_.reduction == Reduction::fast) h.state = GradientState::partial;
    return state;
  }

  void gradients_ready(int block) override {
    Held& h = held(block);
    if (c_.reduction == Reduction::fast || h.gradient.bytes() == 0) return;
    Tensor gradient = flat(h.gradient);
    if (c_.comm.size() > 1) {
      tree_reduce_scatter(c_.ops, c_.comm, gradient, flat(h.shard), flat(h.exchange));
      c_.comm.all_gather(flat(h.shard), gradient);
    }
    h.tree.add(gradient);
  }

  void finish_gradients() override {
    for (Held& h : held_) {
      if (h.gradient.bytes() == 0) continue;
      Tensor gradient = flat(h.gradient);
      if (c_.reduction == Reduction::fast) {
        c_.comm.all_reduce(gradient);
      } else {
        Tensor total = h.tree.total();
        c_.ops.device().copy(gradient.data, total.data, total.bytes());
      }
    }
  }

  ShardRange local_range(int block) const override { return {0, c_.tensors.block(block).trainable_numel}; }
  Tensor local_master(int block) override { return trained(block, held(block).master); }
  Tensor local_gradient(int block) override { return trained(block, held(block).gradient); }

  Tensor local_compute(int block) override {
    const Buffer& compute = held(block).compute;
    if (compute.bytes() == 0) return {};
    return flat(compute, c_.recipe.compute).col_range(0, c_.tensors.block(block).trainable_numel);
  }

  void publish(Stale stale) override {
    for (int b = 0; b < c_.tensors.block_count(); ++b) {
      Held& h = held(b);
      if (h.master.bytes() == 0) continue;
      if (!c_.tensors.full_fine_tuning()) {
        write_adapters(c_.ops, c_.tensors, b, flat(h.frozen, c_.recipe.compute), flat(h.master));
      } else if (stale == Stale::compute && h.compute.bytes() != 0) {
        c_.ops.convert(flat(h.master), flat(h.compute, c_.recipe.compute));
      }
    }
  }

  void set_frozen(int block, std::span<const std::byte> frozen) override {
    check(frozen.size() == held(block).frozen.bytes(), "frozen weights of another size");
    c_.ops.device().copy_to_device(held(block).frozen.data(), frozen.data(), frozen.size());
  }
  void set_master(int block, std::span<const float> master) override {
    check(static_cast<int64_t>(master.size()) == c_.tensors.block(block).trainable_numel,
          "masters of another size");
    c_.ops.device().copy_to_device(held(block).master.data(), master.data(), master.size_bytes());
  }
  std::vector<float> read_master(int block) override {
    std::vector<float> out(static_cast<size_t>(c_.tensors.block(block).trainable_numel));
    c_.ops.device().copy_to_host(out.data(), held(block).master.data(), out.size() * sizeof(float));
    return out;
  }

 protected:
  void release(int) override {}
  Tensor gradient_flat(int block) const override { return flat(held_[static_cast<size_t>(block)].gradient); }

 private:
  struct Held {
    ShardMap map;
    Buffer frozen, master, compute, gradient, exchange, shard;
    GradientTree tree;
    GradientState state = GradientState::undefined;
  };

  Held& held(int block) { return held_[static_cast<size_t>(block)]; }
  Tensor trained(int block, const Buffer& buffer) const {
    return flat(buffer).col_range(0, c_.tensors.block(block).trainable_numel);
  }

  StoreContext c_;
  std::vector<Held> held_;
};

}  // namespace

std::unique_ptr<ParamStore> make_replicated_store(const StoreContext& context) {
  return std::make_unique<ReplicatedStore>(context);
}

}  // namespace llmft
