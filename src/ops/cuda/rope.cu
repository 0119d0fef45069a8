// Also in place: the two halves of a pair are read and written by the same thread.
#include "vector.cuh"

namespace llmft::cuda {
namespace {

template <class S, int N>
__global__ void rope_kernel(const S* x, int64_t x_ld, S* y, int64_t y_ld,
                            const int32_t* __restrict__ positions, const float* __restrict__ table,
                            int64_t table_ld, int64_t table_rows, int half, int items, float sign) {
  int64_t row = blockIdx.x;
  const float* cos_row = table + checked(positions[row], table_rows) * table_ld;
  int items_per_head = half / N;
  x += row * x_ld;
  y += row * y_ld;
  for (auto item = static_cast<int>(first_item()); item < items; item += static_cast<int>(item_step())) {
    int head = item / items_per_head, i = (item - head * items_per_head) * N;
    int low = head * 2 * half + i, high = low + half;
    float a[N], b[N], cos[N], sin[N];
    load_floats<S, N>(x + low, a);
    load_floats<S, N>(x + high, b);
    load_floats<float, N>(cos_row + i, cos);
    load_floats<float, N>(cos_row + half + i, sin);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      float s = sign * sin[k], low_value = a[k];
      a[k] = low_value * cos[k] - b[k] * s;
      b[k] = b[k] * cos[k] + low_value * s;
    }
    store_floats<S, N>(y + low, a);
    store_floats<S, N>(y + high, b);
  }
}

}  // namespace

void rope(cudaStream_t stream, const Matrix& x, const Matrix& y, const int32_t* positions,
          const Matrix& table, float sign) {
  if (x.rows == 0 || x.cols == 0) return;
  int half = static_cast<int>(table.cols / 2);
  with_type(x.type, [&](auto type) {
    using S = typename decltype(type)::type;
    bool vectors = rows_on_16_bytes(x) && rows_on_16_bytes(y) && rows_on_16_bytes(table) &&
                   half % static_cast<int>(16 / sizeof(S)) == 0;
    with_width<S>(vectors, [&](auto n) {
      int items = static_cast<int>(x.cols / 2) / n();
      RowGrid grid = row_grid(x.rows, items);
      rope_kernel<S, n()><<<grid.blocks, grid.threads, 0, stream>>>(
          static_cast<const S*>(x.data), x.ld, static_cast<S*>(y.data), y.ld, positions,
          static_cast<const float*>(table.data), table.ld, table.rows, half, items, sign);
    });
  });
}

}  // namespace llmft::cuda
