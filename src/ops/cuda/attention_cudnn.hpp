// Attention of 16-bit tensors by cuDNN's fused kernels on packed documents. Its graphs have fixed sizes, the
// documents' lengths and offsets are device data: a graph is made for rounded numbers of documents and tokens
// and serves every pack below, nothing waits for the host. Its forward repeats bit for bit; its backward
// adds up dQ in the order in which blocks finish.
#pragma once

#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "llmft/device/cuda_device.hpp"
#include "llmft/ops/ops.hpp"

namespace llmft {

struct AttentionArguments {
  AttentionShape shape;
  Indices cu_seqlens;
  Tensor q, k, v, out, lse;
  Tensor dout, dq, dk, dv;  // of the backward
  Rotation rotation;
};

class CudnnAttention {
 public:
  explicit CudnnAttention(CudaDevice& device);
  ~CudnnAttention();

  // Shapes are checked, there is a token. False: nothing was done, since cuDNN does not take this (head_dim
  // other than 64, f32, rows off 16 bytes, lse with gaps, or a version that is too old).
  bool forward(const AttentionArguments& a);
  bool backward(const AttentionArguments& a);

 private:
  class Library;
  struct Plan;
  // What a graph is made for.
  using Key = std::vector<int64_t>;

  Plan* plan(const AttentionArguments& a, Direction direction);
  void reserve_workspace(AttentionArguments a, Direction direction, const Plan& plan);
  void run(const AttentionArguments& a, const Plan& plan, std::unordered_map<int64_t, void*> tensors);

  CudaDevice& device_;
  std::unique_ptr<Library> library_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
  Buffer tables_;
  Buffer workspace_;
  Buffer gradients_;
};

}  // namespace llmft
