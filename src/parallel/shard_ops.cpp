#include "shard_ops.hpp"

#include <algorithm>
#include <bit>

namespace llmft {

const char* name_of(Strategy strategy) {
  for (auto& [name, value] : kStrategyNames)
    if (value == strategy) return name;
  return "?";
}

int64_t norm_chunk(int64_t trainable_numel) {
  auto target = static_cast<uint64_t>(std::max<int64_t>(trainable_numel / 1024, 1));
  return static_cast<int64_t>(std::clamp<uint64_t>(std::bit_ceil(target), 64, 65536));
}

ShardMap::ShardMap(int64_t n, int ranks, int64_t multiple) : numel(n) {
  int64_t each = (n + ranks - 1) / ranks;
  shard = (each + multiple - 1) / multiple * multiple;
}

ShardRange ShardMap::range(int rank) const {
  return {std::min(numel, rank * shard), std::min(numel, (rank + 1) * shard)};
}

void write_adapters(Ops& ops, const LlamaTensors& tensors, int block, const Tensor& frozen,
                    const Tensor& master) {
  const Block& b = tensors.block(block);
  auto scale = static_cast<float>(tensors.adapter().scale());
  for (const Trainable& t : b.trainables) {
    const PackedTensor& packed = b.tensors[static_cast<size_t>(t.tensor)];
    const Member& member = packed.members[static_cast<size_t>(t.member)];
    Tensor weight = frozen.col_range(packed.offset, packed.stored_rows() * packed.stored_cols())
                        .reshaped(packed.stored_rows(), packed.stored_cols());
    Tensor value = master.col_range(t.offset, t.numel()).reshaped(t.rows, t.cols);
    if (t.kind == TrainableKind::lora_a)
      ops.convert(value,
                  weight.row_range(packed.rows + member.adapter_col, t.rows).col_range(0, packed.cols));
    else
      ops.convert(value,
                  weight.row_range(member.row, t.rows).col_range(packed.cols + member.adapter_col, t.cols),
                  scale);
  }
}

void tree_reduce_scatter(Ops& ops, Comm& comm, const Tensor& full, const Tensor& shard,
                         const Tensor& scratch) {
  comm.all_to_all(full, scratch);
  int64_t n = shard.numel();
  for (int step = 1; step < comm.size(); step *= 2)
    for (int r = 0; r + step < comm.size(); r += 2 * step)
      ops.add(scratch.col_range((r + step) * n, n), scratch.col_range(r * n, n));
  ops.device().copy(shard.data, scratch.data, shard.bytes());
}

}  // namespace llmft
