// Rows picked and put back: copies of bytes, so the unit is what alignment allows and no dtype matters.
#include "vector.cuh"

namespace llmft::cuda {
namespace {

enum class Side { source, target };

template <class Unit, Side kIndexed>
__global__ void copy_rows(const Unit* from, int64_t from_pitch, Unit* to, int64_t to_pitch,
                          const int32_t* rows, int64_t indexed_rows, int64_t units) {
  int64_t plain = blockIdx.x, indexed = checked(rows[plain], indexed_rows);
  from += (kIndexed == Side::source ? indexed : plain) * from_pitch;
  to += (kIndexed == Side::target ? indexed : plain) * to_pitch;
  for (int64_t i = first_item(); i < units; i += item_step()) to[i] = from[i];
}

template <class Unit, Side kIndexed>
void launch(cudaStream_t stream, const Matrix& from, const Matrix& to, const int32_t* rows, int64_t count) {
  int64_t size = from.type == Scalar::f32 ? 4 : 2;
  auto units = [&](int64_t elements) { return elements * size / static_cast<int64_t>(sizeof(Unit)); };
  RowGrid grid = row_grid(count, units(from.cols));
  copy_rows<Unit, kIndexed><<<grid.blocks, grid.threads, 0, stream>>>(
      static_cast<const Unit*>(from.data), units(from.ld), static_cast<Unit*>(to.data), units(to.ld), rows,
      kIndexed == Side::source ? from.rows : to.rows, units(from.cols));
}

template <Side kIndexed>
void copy(cudaStream_t stream, const Matrix& from, const Matrix& to, const int32_t* rows, int64_t count) {
  if (count == 0 || from.cols == 0) return;
  int64_t size = from.type == Scalar::f32 ? 4 : 2;
  if (from.cols * size % 16 == 0 && from.ld * size % 16 == 0 && to.ld * size % 16 == 0 &&
      on_16_bytes(from.data) && on_16_bytes(to.data))
    launch<uint4, kIndexed>(stream, from, to, rows, count);
  else if (size == 4)
    launch<uint32_t, kIndexed>(stream, from, to, rows, count);
  else
    launch<uint16_t, kIndexed>(stream, from, to, rows, count);
}

}  // namespace

void gather_rows(cudaStream_t stream, const Matrix& x, const int32_t* rows, const Matrix& y) {
  copy<Side::source>(stream, x, y, rows, y.rows);
}

void scatter_rows(cudaStream_t stream, const Matrix& y, const int32_t* rows, const Matrix& x) {
  copy<Side::target>(stream, y, x, rows, y.rows);
}

}  // namespace llmft::cuda
