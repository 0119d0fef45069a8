// Collectives over model data. MPI carries host tensors; NCCL is to carry device tensors behind the same
// interface; one rank is SelfComm, where every collective is the identity. Collectives are called by all
// ranks in one order.
#pragma once

#include <memory>

#include "llmft/comm/process.hpp"
#include "llmft/tensor/tensor.hpp"

namespace llmft {

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Flat contiguous tensors. f32 for the reducing ones; any dtype for the moving ones.
  // x, f32 or f64, becomes the sum over ranks; the order of additions is the library's.
  virtual void all_reduce(const Tensor& x) = 0;
  // full [n * shard] on every rank, the ranks' shards one after another. shard may be its own slice of full.
  virtual void all_gather(const Tensor& shard, const Tensor& full) = 0;
  // shard = this rank's slice of the sum of full over ranks. full is left unspecified.
  virtual void reduce_scatter(const Tensor& full, const Tensor& shard) = 0;
  // received [n * shard]: piece r is rank r's slice number rank() of its `sent`.
  virtual void all_to_all(const Tensor& sent, const Tensor& received) = 0;
  virtual void broadcast(const Tensor& x, int root) = 0;
  // Host values, f64.
  virtual void all_reduce_host(std::span<double> values) = 0;
};

// MPI for more than one rank, else SelfComm.
std::unique_ptr<Comm> make_host_comm(const Process& process);
std::unique_ptr<Comm> make_self_comm();

}  // namespace llmft
