// Contiguous matrices are one long row. Columns go by vectors as far as whole ones reach, the rest one by
// one.
#include "vector.cuh"

namespace llmft::cuda {
namespace {

constexpr int kVector = 8;  // elements, 16 or 32 bytes

template <class From, class To, int N>
__global__ void convert_kernel(const From* __restrict__ from, int64_t from_ld, To* __restrict__ to,
                               int64_t to_ld, int64_t cols, float scale) {
  from += blockIdx.x * from_ld;
  to += blockIdx.x * to_ld;
  for (int64_t c = first_item() * N; c < cols; c += item_step() * N) {
    float values[N];
    load_floats<From, N>(from + c, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= scale;
    store_floats<To, N>(to + c, values);
  }
}

template <int N>
__global__ void add_kernel(const float* __restrict__ from, int64_t from_ld, float* __restrict__ to,
                           int64_t to_ld, int64_t cols) {
  from += blockIdx.x * from_ld;
  to += blockIdx.x * to_ld;
  for (int64_t c = first_item() * N; c < cols; c += item_step() * N) {
    float x[N], y[N];
    load_floats<float, N>(from + c, x);
    load_floats<float, N>(to + c, y);
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] += x[i];
    store_floats<float, N>(to + c, y);
  }
}

bool one_row(const Matrix& x) {
  return x.ld == x.cols || x.rows == 1;
}

Matrix columns(const Matrix& x, int64_t first, int64_t count) {
  int64_t size = x.type == Scalar::f32 ? 4 : 2;
  return {static_cast<char*>(x.data) + first * size, x.type, x.rows, count, x.ld};
}

// Calls launch(from, to, integral_constant N) for the columns in whole vectors, then for the rest.
template <class Launch>
void split(Matrix from, Matrix to, Launch&& launch) {
  if (from.rows == 0 || from.cols == 0) return;
  if (one_row(from) && one_row(to)) {
    for (Matrix* x : {&from, &to}) *x = {x->data, x->type, 1, x->rows * x->cols, x->rows * x->cols};
  }
  int64_t whole = rows_on_16_bytes(from) && rows_on_16_bytes(to) ? from.cols / kVector * kVector : 0;
  if (whole > 0)
    launch(columns(from, 0, whole), columns(to, 0, whole), std::integral_constant<int, kVector>{});
  if (int64_t rest = from.cols - whole; rest > 0)
    launch(columns(from, whole, rest), columns(to, whole, rest), std::integral_constant<int, 1>{});
}

}  // namespace

void convert(cudaStream_t stream, const Matrix& from, const Matrix& to, float scale) {
  split(from, to, [&](const Matrix& x, const Matrix& y, auto n) {
    with_type(x.type, [&](auto from_type) {
      with_type(y.type, [&](auto to_type) {
        using From = typename decltype(from_type)::type;
        using To = typename decltype(to_type)::type;
        RowGrid grid = row_grid(x.rows, x.cols / n());
        convert_kernel<From, To, n()><<<grid.blocks, grid.threads, 0, stream>>>(
            static_cast<const From*>(x.data), x.ld, static_cast<To*>(y.data), y.ld, x.cols, scale);
      });
    });
  });
}

void add(cudaStream_t stream, const Matrix& from, const Matrix& to) {
  split(from, to, [&](const Matrix& x, const Matrix& y, auto n) {
    RowGrid grid = row_grid(x.rows, x.cols / n());
    add_kernel<n()><<<grid.blocks, grid.threads, 0, stream>>>(static_cast<const float*>(x.data), x.ld,
                                                              static_cast<float*>(y.data), y.ld, x.cols);
  });
}

}  // namespace llmft::cuda
