// How a sharded block's gradients get from whole blocks on every rank to sums in slices. Blocks travel in
// groups of some size, beside the backward pass of the next ones: big ones each by itself, many small ones
// (adapters) as one collective.
//
// No block's backward pass may wait for what was sent just before it, so the buffers of opened blocks take
// turns. Nothing here depends on how fast collectives are: memory is the same for a plan, on a CPU and on
// GPUs.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "gradient_tree.hpp"
#include "shard_ops.hpp"

namespace llmft {

class GradientExchange {
 public:
  // shards: the ranks that hold the slices; copies: the ranks with the same slice (hsdp), or null.
  GradientExchange(Ops& ops, Comm& shards, Comm* copies, Reduction reduction, Pool& pool)
      : ops_(ops), shards_(shards), copies_(copies), reduction_(reduction), pool_(pool) {}

  // In block order, before the first step. kind: of equal layout. Blocks without trained parameters too.
  void add_block(const ShardMap& map, int kind);
  // After the last add_block(). adapters: all there is to send is little.
  enum class Amount { adapters, weights };
  void plan(Amount amount);

  void clear();
  // The block's whole gradients, undefined, but for the space between tensors: a buffer that was used before
  // was another block's of the same layout.
  void open(int block);
  Tensor opened(int block) const { return flat(blocks_[static_cast<size_t>(block)].opened); }
  void ready(int block);
  // Sends what is left. Not all of it has come yet: slice() waits.
  void finish();
  // This rank's slice, padding included.
  Tensor slice(int block);
  const Buffer& slice_buffer(int block) const { return blocks_[static_cast<size_t>(block)].slice; }

  // A buffer in the shape of a whole block's gradients or masters, to be given back.
  Buffer take_whole(int block) { return pool_.take(whole_bytes(block), at(block).kind); }
  void give_whole(int block, Buffer buffer) { pool_.give(std::move(buffer), at(block).kind); }
  size_t whole_bytes(int block) const;
  // What is worth a collective of its own.
  size_t group_bytes() const { return group_bytes_; }

 private:
  struct State {
    ShardMap map;
    int kind = 0;
    int turns = 1;  // buffers that are made before one is used again
    Buffer slice;
    Buffer opened;
    bool fresh = true;  // nothing of this step is in slice
    std::unique_ptr<GradientTree> tree;
  };
  struct Part {
    int block;
    Buffer arriving;  // none: into the slice itself
  };
  struct Group {
    std::vector<Part> parts;
    Started sum;
  };

  State& at(int block) { return blocks_[static_cast<size_t>(block)]; }
  void send();
  void settle();
  void settle_all() {
    while (!travelling_.empty()) settle();
  }
  void sum_over_copies();

  Ops& ops_;
  Comm& shards_;
  Comm* copies_;
  Reduction reduction_;
  Pool& pool_;
  std::vector<State> blocks_;
  size_t group_bytes_ = 0;
  std::vector<int> waiting_;  // to be sent
  size_t waiting_bytes_ = 0;
  std::deque<Group> travelling_;
};

}  // namespace llmft
