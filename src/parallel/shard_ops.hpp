// What the stores share: where a rank's part of a flat array lies, how adapters get into their columns, sums
// in tree order, and buffers that are used again.
#pragma once

#include <map>

#include "llmft/parallel/strategy.hpp"

namespace llmft {

// Flat arrays are padded to n equal shards, each a multiple of `multiple`.
struct ShardMap {
  int64_t numel = 0;  // without padding
  int64_t shard = 0;  // elements a rank
  ShardMap() = default;
  ShardMap(int64_t numel, int ranks, int64_t multiple);
  int64_t padded(int ranks) const { return shard * ranks; }
  ShardRange range(int rank) const;  // of the unpadded array; may be empty
};

// A whole buffer as one row.
inline Tensor flat(const Buffer& buffer, DType dtype = DType::f32) {
  return buffer.view(dtype, 1, static_cast<int64_t>(buffer.bytes() / size_of(dtype)));
}

// What writes A and s B of a block's masters (whole, f32) into the adapter columns of its frozen weights, of
// which `frozen` holds the elements from `begin` on: all of them or a rank's slice. Added to the list.
void list_adapters(const LlamaTensors& tensors, int block, const Tensor& frozen, int64_t begin,
                   const Tensor& master, std::vector<Conversion>& list);

// The sum of `count` equal pieces that lie one after another, added pairwise in their order; returned in the
// first piece's place.
Tensor tree_sum(Ops& ops, const Tensor& pieces, int count);

// Buffers that come back are kept for the next use of their kind, so that a step allocates nothing after the
// first. One may come back while a collective still uses it: the next to take it waits for that.
class Pool {
 public:
  Pool(Device& device, Comm& comm, MemoryPart part) : device_(device), comm_(comm), part_(part) {}
  // Zero when it is new. kind: buffers serve for each other where it and their size are the same. turns: as
  // many are made before one is used again, so that what the last ones are still needed for is not waited
  // for.
  Buffer take(size_t bytes, int kind = -1, int turns = 1) {
    std::pair key(kind, bytes);
    auto it = free_.lower_bound(key);  // of equal ones the one that has been back for longest
    if (it == free_.end() || it->first != key || made_[key] < turns) {
      ++made_[key];
      Buffer buffer(device_, bytes, part_);
      device_.zero(buffer.data(), bytes);
      return buffer;
    }
    comm_.wait(it->second.busy);
    Buffer buffer = std::move(it->second.buffer);
    free_.erase(it);
    return buffer;
  }
  void give(Buffer buffer, int kind = -1, Started busy = {}) {
    size_t bytes = buffer.bytes();
    if (bytes != 0) free_.emplace(std::pair(kind, bytes), Idle{std::move(buffer), busy});
  }

 private:
  struct Idle {
    Buffer buffer;
    Started busy;
  };
  Device& device_;
  Comm& comm_;
  MemoryPart part_;
  std::multimap<std::pair<int, size_t>, Idle> free_;
  std::map<std::pair<int, size_t>, int> made_;
};

}  // namespace llmft
