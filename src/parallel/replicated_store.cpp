// DDP, and one rank: every rank holds everything, gradients are summed over ranks, and each rank does the
// same update. All blocks' gradients lie in one buffer, so that neighbours are summed together.
#include <algorithm>

#include "gradient_tree.hpp"
#include "shard_ops.hpp"
#include "stores.hpp"

namespace llmft {
namespace {

// Gradients are sent in pieces of at least this size: smaller ones would pay more for starting than they gain
// by going earlier.
constexpr size_t kBucketBytes = size_t{32} << 20;

class ReplicatedStore final : public ParamStore {
 public:
  explicit ReplicatedStore(const StoreContext& context) : c_(context) {
    bool full = c_.tensors.full_fine_tuning();
    Device& device = c_.ops.device();
    int64_t total = 0, largest = 0;
    for (const Block& block : c_.tensors.blocks()) {
      Held h;
      h.map = ShardMap(block.trainable_numel, c_.comm.size(), norm_chunk(block.trainable_numel));
      int64_t elements = h.map.padded(c_.comm.size());
      auto bytes = [&](DType dtype) { return static_cast<size_t>(elements) * size_of(dtype); };
      h.frozen = Buffer(device, static_cast<size_t>(block.frozen_numel) * size_of(c_.recipe.compute),
                        MemoryPart::weights);
      h.master = Buffer(device, bytes(DType::f32), full ? MemoryPart::weights : MemoryPart::adapters);
      if (full && c_.recipe.compute != DType::f32)
        h.compute = Buffer(device, bytes(c_.recipe.compute), MemoryPart::weights);
      h.gradient_begin = total;
      h.gradient_numel = elements;
      h.tree = std::make_unique<GradientTree>(c_.ops, h.map.shard);
      device.zero(h.master.data(), h.master.bytes());
      device.zero(h.frozen.data(), h.frozen.bytes());
      total += elements;
      largest = std::max(largest, elements);
      held_.push_back(std::move(h));
    }
    gradients_ = Buffer(device, static_cast<size_t>(total) * sizeof(float), MemoryPart::gradients);
    device.zero(gradients_.data(), gradients_.bytes());  // the space between tensors stays so
    if (c_.reduction == Reduction::tree && c_.comm.size() > 1)
      exchange_ = Buffer(device, static_cast<size_t>(largest) * sizeof(float), MemoryPart::gathered);
  }

  const LlamaTensors& tensors() const override { return c_.tensors; }
  Device& device() override { return c_.ops.device(); }
  bool replicated() const override { return true; }
  void sum_over_shards(const Tensor&) override {}

  WeightLease acquire(int block) override {
    Held& h = held(block);
    return {*this, block, flat(h.frozen, c_.recipe.compute),
            h.compute.bytes() != 0 ? flat(h.compute, c_.recipe.compute) : flat(h.master)};
  }
  void prefetch(int) override {}

  void zero_gradients(int64_t micro_batches) override {
    for (Held& h : held_) {
      h.state = GradientState::undefined;
      h.tree->clear();
      h.ready = 0;
    }
    micro_batches_ = micro_batches;
    unsent_ = total();
  }

  GradientState open_gradients(int block) override {
    Held& h = held(block);
    GradientState state = h.state;
    Tensor gradient = gradient_flat(block);
    if (state == GradientState::undefined && !c_.tensors.full_fine_tuning())
      c_.ops.device().zero(gradient.data, gradient.bytes());
    if (c_.reduction == Reduction::fast) h.state = GradientState::partial;
    return state;
  }

  void gradients_ready(int block) override {
    Held& h = held(block);
    if (h.gradient_numel == 0) return;
    ++h.ready;
    check(micro_batches_ == 0 || h.ready <= micro_batches_, "more micro-batches than were announced");
    Tensor gradient = gradient_flat(block);
    if (c_.reduction == Reduction::tree) {
      if (c_.comm.size() > 1) {
        Tensor pieces = flat(exchange_).col_range(0, h.gradient_numel);
        c_.comm.all_to_all(gradient, pieces);
        h.tree->add(tree_sum(c_.ops, pieces, c_.comm.size()));
      } else {
        h.tree->add(gradient);
      }
    } else if (h.ready == micro_batches_) {
      send_from(h.gradient_begin, kBucketBytes);
    }
  }

  void finish_gradients() override {
    if (c_.reduction == Reduction::fast) {
      send_from(0, 0);
      for (Started sent : sent_) c_.comm.wait(sent);
      sent_.clear();
      return;
    }
    for (int b = 0; b < c_.tensors.block_count(); ++b) {
      Held& h = held(b);
      if (h.gradient_numel == 0) continue;
      Tensor gradient = gradient_flat(b), sum = h.tree->total();
      Tensor mine = gradient.col_range(c_.comm.rank() * h.map.shard, h.map.shard);
      c_.ops.device().copy(mine.data, sum.data, sum.bytes());
      c_.comm.all_gather(mine, gradient);
    }
  }

  ShardRange local_range(int block) const override { return {0, c_.tensors.block(block).trainable_numel}; }
  ShardRange written_range(int block) const override {
    int64_t numel = c_.tensors.block(block).trainable_numel;
    return {numel * c_.comm.rank() / c_.comm.size(), numel * (c_.comm.rank() + 1) / c_.comm.size()};
  }
  Tensor local_master(int block) override { return trained(block, flat(held(block).master)); }
  Tensor local_gradient(int block) override { return trained(block, gradient_flat(block)); }

  Tensor local_compute(int block) override {
    const Buffer& compute = held(block).compute;
    return compute.bytes() == 0 ? Tensor{} : trained(block, flat(compute, c_.recipe.compute));
  }

  void publish(Stale stale) override {
    for (int b = 0; b < c_.tensors.block_count(); ++b) {
      Held& h = held(b);
      if (h.master.bytes() == 0) continue;
      if (!c_.tensors.full_fine_tuning()) {
        write_adapters(c_.ops, c_.tensors, b, flat(h.frozen, c_.recipe.compute), 0, flat(h.master));
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
  Tensor gradient_flat(int block) const override {
    const Held& h = held_[static_cast<size_t>(block)];
    return flat(gradients_).col_range(h.gradient_begin, h.gradient_numel);
  }

 private:
  struct Held {
    ShardMap map;
    Buffer frozen, master, compute;
    int64_t gradient_begin = 0;
    int64_t gradient_numel = 0;  // with padding
    int64_t ready = 0;           // micro-batches whose gradients are in
    GradientState state = GradientState::undefined;
    std::unique_ptr<GradientTree> tree;
  };

  Held& held(int block) { return held_[static_cast<size_t>(block)]; }
  Tensor trained(int block, const Tensor& whole) const {
    return whole.col_range(0, c_.tensors.block(block).trainable_numel);
  }
  int64_t total() const { return static_cast<int64_t>(gradients_.bytes() / sizeof(float)); }

  // The backward pass goes from the last block to the first, but the embedding may be opened early and ends
  // last: what is sent is always the upper end of what is not, and only once all of it is ready.
  void send_from(int64_t begin, size_t at_least) {
    if (c_.comm.size() == 1 || begin >= unsent_) return;
    if (static_cast<size_t>(unsent_ - begin) * sizeof(float) < at_least) return;
    sent_.push_back(c_.comm.start_all_reduce(flat(gradients_).col_range(begin, unsent_ - begin)));
    unsent_ = begin;
  }

  StoreContext c_;
  std::vector<Held> held_;
  Buffer gradients_;
  Buffer exchange_;  // tree: the ranks' pieces of one block
  int64_t micro_batches_ = 0;
  int64_t unsent_ = 0;
  std::vector<Started> sent_;
};

}  // namespace

std::unique_ptr<ParamStore> make_replicated_store(const StoreContext& context) {
  return std::make_unique<ReplicatedStore>(context);
}

}  // namespace llmft
