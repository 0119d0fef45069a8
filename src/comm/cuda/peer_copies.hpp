// PeerMemory by CUDA's interprocess handles and copies.
#pragma once

#include <memory>
#include <vector>

#include <mpi.h>

#include "line.hpp"
#include "llmft/comm/peer_memory.hpp"

namespace llmft {

// Collective. Null on all ranks where one of them cannot read the others' memory: ranks on several nodes,
// GPUs without peer access, or a process that does not see the other's GPU. LLMFT_PEER_COPIES=0: null too.
// The Line and the ranks must outlive it.
std::unique_ptr<PeerMemory> share_by_copies(const Line& collectives, MPI_Comm ranks,
                                            const std::vector<Tensor>& shards);

}  // namespace llmft
