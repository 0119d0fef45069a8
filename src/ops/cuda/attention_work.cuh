// What all attention kernels share: how they see a matrix, and how a block finds what it is to do from
// cu_seqlens on the device. Grids are made for the most work that so many tokens and documents can be; blocks
// beyond the work end at once. Tiles begin where the document does, therefore results do not depend on
// neighbours.
#pragma once

#include "attention_kernels.hpp"
#include "vector.cuh"

namespace llmft::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// A matrix with heads side by side.
template <class S>
struct Heads {
  S* data;
  int64_t ld;
  bool vectors;  // every head of every row starts on 16 bytes and is some times 16 bytes long
};
template <class S>
Heads<S> heads_of(const Matrix& x, int head_dim) {
  return {static_cast<S*>(x.data), x.ld,
          rows_on_16_bytes(x) && head_dim % static_cast<int>(16 / sizeof(S)) == 0};
}

// Work of that number: a document cut into tiles of Size tokens, and which of its tiles counted from the end
// that does not see the others: a tile of queries that sees `weight` tiles of keys, or one of keys that as
// many tiles of queries see. The heaviest come first, so that the last blocks to start are short ones.
struct Work {
  int first;
  int length;
  int weight;  // 0: there is less work than that
};
template <int Size>
__device__ Work find_work(const AttentionSizes& sizes, int64_t number) {
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  auto documents = static_cast<int>(sizes.documents);
  // of document 32 i + lane; the list is read again only where it is longer than a warp
  int begin = 0, tiles = 0, end = 0;
  auto read = [&](int first) {
    int document = first + lane;
    begin = end = 0;
    if (document < documents) {
      begin = sizes.cu_seqlens[document];
      end = sizes.cu_seqlens[document + 1];
      if (begin < 0 || end < begin || end > sizes.tokens) __trap();
    }
    tiles = (end - begin + Size - 1) / Size;
  };
  int most = 0;
  for (int first = 0; first < documents; first += kWarp) {
    read(first);
    most = max(most, tiles);
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) most = max(most, __shfl_xor_sync(kAllLanes, most, step));
  int64_t before = 0;
  for (int weight = most; weight > 0; --weight)
    for (int first = 0; first < documents; first += kWarp) {
      if (documents > kWarp) read(first);
      unsigned having = __ballot_sync(kAllLanes, tiles >= weight);
      int count = __popc(having);
      if (number < before + count) {
        bool mine =
            tiles >= weight && __popc(having & ((1u << lane) - 1)) == static_cast<int>(number - before);
        int owner = __ffs(static_cast<int>(__ballot_sync(kAllLanes, mine))) - 1;
        return {__shfl_sync(kAllLanes, begin, owner), __shfl_sync(kAllLanes, end - begin, owner), weight};
      }
      before += count;
    }
  return {0, 0, 0};
}
// At least as much as there is.
template <int Size>
int64_t most_work(const AttentionSizes& sizes) {
  return sizes.tokens / Size + sizes.documents;
}

}  // namespace llmft::cuda
