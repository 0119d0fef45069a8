// DDP, and one rank: every rank holds everything, gradients are summed over ranks, and each rank does the
// same update. All blocks' gradients lie in one buffer, so that neighbours are summed together.
#include <algorithm>
#include <deque>

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
  explicit ReplicatedStore(const StoreContext& context)
      : c_(context), pool_(c_.ops.device(), c_.comm, MemoryPart::gathered) {
    bool full = c_.tensors.full_fine_tuning();
    Device& device = c_.ops.device();
    int64_t total = 0;
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
      held_.push_back(std::move(h));
    }
    gradients_ = Buffer(device, static_cast<size_t>(total) * sizeof(float), MemoryPart::gradients);
    device.zero(gradients_.data(), gradients_.bytes());  // the space between tensors stays so
    group_bytes_ = std::min(kBucketBytes, gradients_.bytes() / 4);
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
    sent_.clear();
    unsent_ = total();
  }

  GradientState open_gradients(int block) override {
    Held& h = held(block);
    if (c_.reduction == Reduction::tree) exchanged(block);
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
      if (c_.comm.size() == 1) {
        h.tree->add(gradient);
        return;
      }
      waiting_.push_back(block);
      waiting_bytes_ += gradient.bytes();
      if (waiting_bytes_ >= group_bytes_) exchange();
    } else if (h.ready == micro_batches_) {
      send_from(h.gradient_begin, kBucketBytes);
    }
  }

  void finish_gradients() override {
    if (c_.reduction == Reduction::fast) {
      send_from(0, 0);
      return;
    }
    exchange();
    while (!exchanging_.empty()) add_up();
    std::vector<std::pair<Tensor, Tensor>> slices;  // this rank's, and the whole
    for (int b = 0; b < c_.tensors.block_count(); ++b) {
      Held& h = held(b);
      if (h.gradient_numel == 0) continue;
      Tensor gradient = gradient_flat(b), sum = h.tree->total();
      slices.emplace_back(gradient.col_range(c_.comm.rank() * h.map.shard, h.map.shard), gradient);
      c_.ops.device().copy(slices.back().first.data, sum.data, sum.bytes());
    }
    c_.comm.wait(c_.comm.start_together("all_gather", gradients_.bytes(), [&] {
      for (auto& [mine, whole] : slices) c_.comm.start_all_gather(mine, whole);
    }));
  }

  ShardRange local_range(int block) const override { return {0, c_.tensors.block(block).trainable_numel}; }
  ShardRange written_range(int block) const override {
    int64_t numel = c_.tensors.block(block).trainable_numel;
    return {numel * c_.comm.rank() / c_.comm.size(), numel * (c_.comm.rank() + 1) / c_.comm.size()};
  }
  Tensor local_master(int block) override { return trained(block, flat(held(block).master)); }
  Tensor local_gradient(int block) override {
    int64_t begin = held(block).gradient_begin, end = begin + held(block).gradient_numel;
    for (const Sent& sent : sent_)
      if (sent.begin < end && begin < sent.end) c_.comm.wait(sent.sum);
    return trained(block, gradient_flat(block));
  }

  Tensor local_compute(int block) override {
    const Buffer& compute = held(block).compute;
    return compute.bytes() == 0 ? Tensor{} : trained(block, flat(compute, c_.recipe.compute));
  }

  void publish(Stale stale) override {
    std::vector<Conversion> adapters;
    for (int b = 0; b < c_.tensors.block_count(); ++b) {
      Held& h = held(b);
      if (h.master.bytes() == 0) continue;
      if (!c_.tensors.full_fine_tuning()) {
        list_adapters(c_.tensors, b, flat(h.frozen, c_.recipe.compute), 0, flat(h.master), adapters);
      } else if (stale == Stale::compute && h.compute.bytes() != 0) {
        c_.ops.convert(flat(h.master), flat(h.compute, c_.recipe.compute));
      }
    }
    c_.ops.convert_each(adapters);
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
    sent_.push_back(
        {begin, unsent_, c_.comm.start_all_reduce(flat(gradients_).col_range(begin, unsent_ - begin))});
    unsent_ = begin;
  }

  // tree: the blocks that wait travel together, while the next ones' gradients are computed.
  void exchange() {
    if (waiting_.empty()) return;
    Group group{std::move(waiting_), pool_.take(waiting_bytes_), {}};
    waiting_.clear();
    group.sum = c_.comm.start_together("all_to_all", waiting_bytes_, [&] {
      for_each(group, [&](int block, const Tensor& pieces) {
        c_.comm.start_all_to_all(gradient_flat(block), pieces);
      });
    });
    waiting_bytes_ = 0;
    exchanging_.push_back(std::move(group));
    while (exchanging_.size() > 1) add_up();
  }
  void add_up() {
    Group group = std::move(exchanging_.front());
    exchanging_.pop_front();
    c_.comm.wait(group.sum);
    for_each(group, [&](int block, const Tensor& pieces) {
      held(block).tree->add(tree_sum(c_.ops, pieces, c_.comm.size()));
    });
    pool_.give(std::move(group.pieces));
  }
  // Until the block's gradients may be written again.
  void exchanged(int block) {
    auto has = [&](const std::vector<int>& blocks) {
      return std::find(blocks.begin(), blocks.end(), block) != blocks.end();
    };
    if (has(waiting_)) exchange();
    while (std::any_of(exchanging_.begin(), exchanging_.end(), [&](const Group& g) { return has(g.blocks); }))
      add_up();
  }

  struct Group {
    std::vector<int> blocks;
    Buffer pieces;  // the ranks', block by block
    Started sum;
  };
  template <class Use>
  void for_each(const Group& group, const Use& use) {
    int64_t at = 0;
    for (int block : group.blocks) {
      use(block, flat(group.pieces).col_range(at, held(block).gradient_numel));
      at += held(block).gradient_numel;
    }
  }
  struct Sent {
    int64_t begin, end;
    Started sum;
  };

  StoreContext c_;
  Pool pool_;
  std::vector<Held> held_;
  Buffer gradients_;
  size_t group_bytes_ = 0;    // tree: what is worth an exchange of its own
  std::vector<int> waiting_;  // tree: blocks to be exchanged
  size_t waiting_bytes_ = 0;
  std::deque<Group> exchanging_;
  int64_t micro_batches_ = 0;
  int64_t unsent_ = 0;
  std::vector<Sent> sent_;
};

}  // namespace

std::unique_ptr<ParamStore> make_replicated_store(const StoreContext& context) {
  return std::make_unique<ReplicatedStore>(context);
}

}  // namespace llmft
