// What both stores share: where a rank's part of a flat array lies, how adapters get into their columns, and
// the sum over ranks in tree order.
#pragma once

#include "llmft/parallel/strategy.hpp"

namespace llmft {

// Flat arrays are padded to n equal shards, each a multiple of `multiple`.
struct ShardMap {
  int64_t numel;  // without padding
  int64_t shard;  // elements a rank
  ShardMap(int64_t numel, int ranks, int64_t multiple);
  int64_t padded(int ranks) const { return shard * ranks; }
  ShardRange range(int rank) const;  // of the unpadded array; may be empty
};

// A whole buffer as one row.
inline Tensor flat(const Buffer& buffer, DType dtype = DType::f32) {
  return buffer.view(dtype, 1, static_cast<int64_t>(buffer.bytes() / size_of(dtype)));
}

// Writes A and s B of a block's masters (whole, f32) into the adapter columns of its frozen weights (whole).
void write_adapters(Ops& ops, const LlamaTensors& tensors, int block, const Tensor& frozen,
                    const Tensor& master);

// shard = this rank's slice of the sum of `full` over ranks, added pairwise in rank order. scratch: as large
// as full.
void tree_reduce_scatter(Ops& ops, Comm& comm, const Tensor& full, const Tensor& shard,
                         const Tensor& scratch);

}  // namespace llmft
