// A sum over leaves added one at a time, in the shape of a binary tree that depends only on the leaves'
// count: equal subtrees merge as soon as both exist (a binary counter), the rest from the smallest up at the
// end.
#pragma once

#include <vector>

#include "llmft/device/device.hpp"
#include "llmft/ops/ops.hpp"

namespace llmft {

class GradientTree {
 public:
  // numel f32 elements a leaf.
  GradientTree(Ops& ops, int64_t numel) : ops_(&ops), numel_(numel) {}

  void clear();
  void add(const Tensor& leaf);
  // The sum; valid until clear(). Zero when nothing was added.
  Tensor total();

 private:
  struct Node {
    int level;
    Buffer buffer;
  };
  Tensor view(const Node& node) const { return node.buffer.view(DType::f32, 1, numel_); }
  Buffer take();
  void merge_top();

  Ops* ops_;
  int64_t numel_;
  std::vector<Node> nodes_;
  std::vector<Buffer> free_;
};

}  // namespace llmft
