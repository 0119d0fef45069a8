#include "shard_ops.hpp"

#include <algorithm>

namespace llmft {

ShardMap::ShardMap(int64_t n, int ranks, int64_t multiple) : numel(n) {
  int64_t each = (n + ranks - 1) / ranks;
  shard = (each + multiple - 1) / multiple * multiple;
}

ShardRange ShardMap::range(int rank) const {
  return {std::min(numel, rank * shard), std::min(numel, (rank + 1) * shard)};
}

namespace {

// The elements [from, from + from.cols) of a matrix' rows that lie at `at`, `at + stride`, ... of an array of
// which `array` has [begin, begin + array.cols): rows that are in it whole go at once, cut ones by
// themselves.
void put_rows(std::vector<Conversion>& list, const Tensor& from, const Tensor& array, int64_t begin,
              int64_t at, int64_t stride, float scale) {
  int64_t end = begin + array.cols;
  auto row_begin = [&](int64_t r) { return at + r * stride; };
  int64_t first = 0, last = from.rows;  // rows that touch the range
  if (row_begin(0) + from.cols <= begin) first = std::min(last, (begin - at - from.cols) / stride + 1);
  while (last > first && row_begin(last - 1) >= end) {
    int64_t beyond = (row_begin(last - 1) - end) / stride + 1;
    last = std::max(first, last - beyond);
  }
  auto cut = [&](int64_t r) {
    int64_t lo = std::max(row_begin(r), begin), hi = std::min(row_begin(r) + from.cols, end);
    if (lo < hi)
      list.push_back({from.row_range(r, 1).col_range(lo - row_begin(r), hi - lo),
                      array.col_range(lo - begin, hi - lo), scale});
  };
  if (first < last && row_begin(first) < begin) cut(first++);
  if (first < last && row_begin(last - 1) + from.cols > end) cut(--last);
  if (first >= last) return;
  Tensor to = array.col_range(row_begin(first) - begin, from.cols);
  list.push_back(
      {from.row_range(first, last - first), {to.data, to.dtype, last - first, from.cols, stride}, scale});
}

}  // namespace

void list_adapters(const LlamaTensors& tensors, int block, const Tensor& frozen, int64_t begin,
                   const Tensor& master, std::vector<Conversion>& list) {
  const Block& b = tensors.block(block);
  auto scale = static_cast<float>(tensors.adapter().scale());
  for (const Trainable& t : b.trainables) {
    const PackedTensor& packed = b.tensors[static_cast<size_t>(t.tensor)];
    const Member& member = packed.members[static_cast<size_t>(t.member)];
    Tensor value = master.col_range(t.offset, t.numel()).reshaped(t.rows, t.cols);
    int64_t stride = packed.stored_cols();
    bool a = t.kind == TrainableKind::lora_a;
    int64_t row = a ? packed.rows + member.adapter_col : member.row;
    int64_t column = a ? 0 : packed.cols + member.adapter_col;
    put_rows(list, value, frozen, begin, packed.offset + row * stride + column, stride, a ? 1 : scale);
  }
}

Tensor tree_sum(Ops& ops, const Tensor& pieces, int count) {
  int64_t n = pieces.numel() / count;
  for (int step = 1; step < count; step *= 2)
    for (int r = 0; r + step < count; r += 2 * step)
      ops.add(pieces.col_range((r + step) * n, n), pieces.col_range(r * n, n));
  return pieces.col_range(0, n);
}

}  // namespace llmft
