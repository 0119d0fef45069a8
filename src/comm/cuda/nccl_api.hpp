// NCCL, loaded when the first communicator is made: a program that uses one GPU, or none, runs without it.
#pragma once

#include <nccl.h>

namespace llmft {

// clang-format off
#define LLMFT_NCCL_FUNCTIONS(X) \
  X(GetVersion) X(GetUniqueId) X(CommInitRankConfig) X(CommGetAsyncError) X(CommAbort) \
  X(CommFinalize) X(CommDestroy) X(GetErrorString) X(GetLastError) X(GroupStart) \
  X(GroupEnd) X(AllReduce) X(AllGather) X(ReduceScatter) X(Broadcast) \
  X(Send) X(Recv)
// clang-format on

struct NcclApi {
#define LLMFT_NCCL_MEMBER(name) decltype(&::nccl##name) name;
  LLMFT_NCCL_FUNCTIONS(LLMFT_NCCL_MEMBER)
#undef LLMFT_NCCL_MEMBER
};

// UserError: not found, or older than 2.18.
const NcclApi& nccl();

}  // namespace llmft
