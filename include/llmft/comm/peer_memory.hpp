// Memory of the ranks of one node that all of them read by themselves: a GPU's copy engines fetch it over
// NVLink or PCIe. Unlike a collective this takes no multiprocessor from the device's own work and needs the
// other ranks to do nothing, so they do not have to keep step. That they do not write what is being read is
// for the callers to see to, by collectives: all_reduce of anything after the last wait() and before writing,
// and another after writing, which after() is told of.
#pragma once

#include "llmft/comm/comm.hpp"

namespace llmft {

class PeerMemory {
 public:
  virtual ~PeerMemory() = default;  // collective; what was shared must still be there

  // full [n * shard] becomes the ranks' shards number `which`, one after another. It begins when what the
  // device was told before is done; until wait(), full may not be touched.
  virtual Started start_gather(size_t which, const Tensor& full) = 0;
  virtual void wait(Started gathering) = 0;
  // For all that was started.
  virtual void wait_all() = 0;
  // What is started from now on begins after this collective of the Comm that it was shared in.
  virtual void after(Started collective) = 0;
};

}  // namespace llmft
