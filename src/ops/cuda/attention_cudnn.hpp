// Attention's forward of 16-bit tensors by cuDNN's fused kernels on packed documents. Its graphs have fixed
// sizes, the documents' lengths and offsets are device data: a graph is made for rounded numbers of documents
// and tokens and serves every pack below, nothing waits for the host. It repeats bit for bit. (cuDNN's
// backward does not, and was slower than this project's own.)
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "llmft/device/cuda_device.hpp"
#include "llmft/ops/ops.hpp"

namespace llmft {

struct AttentionArguments {
  AttentionShape shape;
  Indices cu_seqlens;
  Tensor q, k, v, out, lse;
};

class CudnnAttention {
 public:
  explicit CudnnAttention(CudaDevice& device);
  ~CudnnAttention();

  // Shapes are checked, there is a token. False: nothing was done, since cuDNN does not take this (head_dim
  // other than 64, f32, rows off 16 bytes, lse with gaps, or a version that is too old).
  bool forward(const AttentionArguments& a);

 private:
  class Library;
  struct Plan;
  // What a graph is made for.
  using Key = std::vector<int64_t>;

  Plan* plan(const AttentionArguments& a);
  void reserve_workspace(AttentionArguments a, const Plan& plan);

  CudaDevice& device_;
  std::unique_ptr<Library> library_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
  Buffer tables_;
  Buffer workspace_;
};

}  // namespace llmft
