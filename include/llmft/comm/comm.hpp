// Collectives over model data: MPI for host tensors, NCCL for a GPU's, both behind one interface; one rank is
// the identity. Collectives are called by all ranks of a Comm in one order.
//
// A collective begins when what the device was told before is done. Called plainly, what the device is told
// after it sees its result. start_...() lets it run beside the device's own work instead: until wait(), its
// tensors may be neither read (outputs) nor written.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "llmft/comm/process.hpp"
#include "llmft/tensor/tensor.hpp"

namespace llmft {

class Device;
class PeerMemory;

// A collective under way; waiting twice, or for one that was never started, is nothing.
struct Started {
  uint64_t number = 0;
};

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Flat contiguous tensors. f32 for the reducing ones; any dtype for the moving ones.
  // x, f32 or f64, becomes the sum over ranks, the same bits on all; the order of additions is the library's.
  virtual Started start_all_reduce(const Tensor& x) = 0;
  // full [n * shard] on every rank, the ranks' shards one after another. shard may be its own slice of full.
  virtual Started start_all_gather(const Tensor& shard, const Tensor& full) = 0;
  // shard = this rank's slice of the sum of full over ranks. full is left unspecified.
  virtual Started start_reduce_scatter(const Tensor& full, const Tensor& shard) = 0;
  // received [n * shard]: piece r is rank r's slice number rank() of its `sent`.
  virtual Started start_all_to_all(const Tensor& sent, const Tensor& received) = 0;
  virtual Started start_broadcast(const Tensor& x, int root) = 0;
  virtual void wait(Started collective) = 0;

  // The collectives that start() starts, of one kind, go as one where that is cheaper than one after another
  // (NCCL: one kernel); what is returned stands for all of them. They begin when what the device was told
  // before this call is done: start() is to tell it nothing. name and bytes, of all, are for who reports a
  // standstill.
  virtual Started start_together(const char* name, size_t bytes, const std::function<void()>& start) {
    static_cast<void>(name);
    static_cast<void>(bytes);
    start();
    return {};
  }

  void all_reduce(const Tensor& x) { wait(start_all_reduce(x)); }
  void all_gather(const Tensor& shard, const Tensor& full) { wait(start_all_gather(shard, full)); }
  void reduce_scatter(const Tensor& full, const Tensor& shard) { wait(start_reduce_scatter(full, shard)); }
  void all_to_all(const Tensor& sent, const Tensor& received) { wait(start_all_to_all(sent, received)); }
  void broadcast(const Tensor& x, int root) { wait(start_broadcast(x, root)); }
  // Host values, f64.
  virtual void all_reduce_host(std::span<double> values) = 0;

  // Exposed communication: seconds that the device stood waiting in wait(), and how often it was called,
  // since the Comm was made, those of its split() parts included. A GPU's may lag behind by what it has not
  // done yet.
  struct Exposed {
    double seconds = 0;
    int64_t waits = 0;
  };
  virtual Exposed exposed() = 0;

  // Collective: the ranks that give the same colour, in the order of their ranks here. Must not outlive this.
  virtual std::unique_ptr<Comm> split(int colour) = 0;
  // Lets the ranks read each other's shards (peer_memory.hpp), as many and of the same sizes on each; null:
  // they cannot. Collective. It must not outlive this or the shards.
  virtual std::unique_ptr<PeerMemory> share(const std::vector<Tensor>& shards);
};

// For tensors of this device: MPI for a CPU, NCCL for a GPU; one rank is itself. Collective.
std::unique_ptr<Comm> make_comm(const Process& process, Device& device);
// MPI for more than one rank, else one rank; host tensors.
std::unique_ptr<Comm> make_host_comm(const Process& process);
std::unique_ptr<Comm> make_self_comm();
std::unique_ptr<Comm> make_self_comm(Device& device);
// For plans: as if there were so many ranks, and so many in the parts that it is split into, split by split.
// Nothing travels.
std::unique_ptr<Comm> make_dry_comm(int rank, int size, std::vector<int> split_sizes = {});
// inner, with the time that its collectives hold up the device in the device's profile.
std::unique_ptr<Comm> make_profiled_comm(std::unique_ptr<Comm> inner, Device& device);

// "2.28.9", or why several ranks cannot use GPUs in this process.
std::string nccl_version();

}  // namespace llmft
