#include "gradient_tree.hpp"

#include <algorithm>

namespace llmft {

Buffer GradientTree::take() {
  if (free_.empty())
    return Buffer(ops_->device(), static_cast<size_t>(numel_) * sizeof(float), MemoryPart::gradients);
  Buffer buffer = std::move(free_.back());
  free_.pop_back();
  return buffer;
}

void GradientTree::clear() {
  for (Node& node : nodes_) free_.push_back(std::move(node.buffer));
  nodes_.clear();
}

void GradientTree::merge_top() {
  Node right = std::move(nodes_.back());
  nodes_.pop_back();
  Node& left = nodes_.back();
  ops_->add(view(right), view(left));
  left.level = std::max(left.level, right.level) + 1;
  free_.push_back(std::move(right.buffer));
}

void GradientTree::add(const Tensor& leaf) {
  nodes_.push_back({0, take()});
  ops_->device().copy(view(nodes_.back()).data, leaf.data, leaf.bytes());
  while (nodes_.size() >= 2 && nodes_[nodes_.size() - 2].level == nodes_.back().level) merge_top();
}

Tensor GradientTree::total() {
  if (nodes_.empty()) {
    nodes_.push_back({0, take()});
    ops_->device().zero(view(nodes_[0]).data, static_cast<size_t>(numel_) * sizeof(float));
  }
  while (nodes_.size() >= 2) merge_top();
  return view(nodes_[0]);
}

}  // namespace llmft
