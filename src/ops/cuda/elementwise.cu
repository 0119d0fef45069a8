// Contiguous matrices are one long row. Columns go by vectors as far as whole ones reach, the rest one by
// one.
#include "vector.cuh"

namespace llmft::cuda {
namespace {

constexpr int kVector = kConversionVector;  // elements, 16 or 32 bytes

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

struct Piece {
  const float* from;
  void* to;
  int64_t from_ld, to_ld;
  int64_t before;  // vectors of the pieces before it
  int row_vectors;
  float scale;
};
constexpr int kMostPieces = 64;  // of a launch: its arguments are at most 4 KB
struct Pieces {
  Piece piece[kMostPieces];
  int count;
  int64_t vectors;
};

// A thread a vector.
template <class To>
__global__ void convert_pieces_kernel(const __grid_constant__ Pieces pieces) {
  int64_t vector = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (vector >= pieces.vectors) return;
  int first = 0, last = pieces.count - 1;
  while (first < last) {
    int middle = (first + last + 1) / 2;
    if (pieces.piece[middle].before <= vector)
      first = middle;
    else
      last = middle - 1;
  }
  const Piece& piece = pieces.piece[first];
  vector -= piece.before;
  int64_t row = vector / piece.row_vectors, col = vector % piece.row_vectors * kVector;
  float values[kVector];
  load_floats<float, kVector>(piece.from + row * piece.from_ld + col, values);
#pragma unroll
  for (float& value : values) value *= piece.scale;
  store_floats<To, kVector>(static_cast<To*>(piece.to) + row * piece.to_ld + col, values);
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

bool converts_together(const Conversion& c) {
  return c.from.type == Scalar::f32 && c.from.rows > 0 && c.from.cols > 0 && c.from.cols % kVector == 0 &&
         rows_on_16_bytes(c.from) && rows_on_16_bytes(c.to);
}

void convert_together(cudaStream_t stream, const Conversion* list, int count) {
  constexpr int kThreads = 256;
  for (int i = 0; i < count;) {
    Pieces pieces{};
    for (; i < count && pieces.count < kMostPieces; ++i) {
      const auto& [from, to, scale] = list[i];
      auto row_vectors = static_cast<int>(from.cols / kVector);
      pieces.piece[pieces.count++] = {
          static_cast<const float*>(from.data), to.data, from.ld, to.ld, pieces.vectors, row_vectors, scale};
      pieces.vectors += from.rows * row_vectors;
    }
    auto blocks = static_cast<unsigned>((pieces.vectors + kThreads - 1) / kThreads);
    with_type(list[0].to.type, [&](auto type) {
      using To = typename decltype(type)::type;
      convert_pieces_kernel<To><<<blocks, kThreads, 0, stream>>>(pieces);
    });
  }
}

void add(cudaStream_t stream, const Matrix& from, const Matrix& to) {
  split(from, to, [&](const Matrix& x, const Matrix& y, auto n) {
    RowGrid grid = row_grid(x.rows, x.cols / n());
    add_kernel<n()><<<grid.blocks, grid.threads, 0, stream>>>(static_cast<const float*>(x.data), x.ld,
                                                              static_cast<float*>(y.data), y.ld, x.cols);
  });
}

}  // namespace llmft::cuda
