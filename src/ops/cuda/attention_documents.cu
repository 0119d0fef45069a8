// Documents as the attention library takes them. Slots beyond the documents have length 0 and lie at the end.
#include "attention_kernels.hpp"

namespace llmft::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void document_tables_kernel(const int32_t* __restrict__ cu_seqlens, int64_t documents,
                                       DocumentTables tables) {
  int64_t slot = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (slot > tables.slots) return;
  int32_t begin = cu_seqlens[slot < documents ? slot : documents];
  if (slot < tables.slots) tables.lengths[slot] = slot < documents ? cu_seqlens[slot + 1] - begin : 0;
  for (int i = 0; i < tables.count; ++i) tables.offsets[i * tables.pitch + slot] = begin * tables.strides[i];
}

}  // namespace

void document_tables(cudaStream_t stream, const int32_t* cu_seqlens, int64_t documents,
                     const DocumentTables& tables) {
  auto blocks = static_cast<unsigned>(tables.slots / kThreads + 1);
  document_tables_kernel<<<blocks, kThreads, 0, stream>>>(cu_seqlens, documents, tables);
}

}  // namespace llmft::cuda
