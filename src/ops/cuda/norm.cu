// A warp owns a row: the row's first vectors stay in registers between the sum over the row and the writing,
// longer rows are read again. Weight gradients are sums over rows: chunks of rows first, then the chunks in
// order.
#include "vector.cuh"

namespace llmft::cuda {
namespace {

constexpr int kRowsPerBlock = 4;
constexpr int kThreads = kRowsPerBlock * kWarp;
constexpr int kChunkRows = 64;  // rows of one partial weight gradient
constexpr int kChunkThreads = 128;
constexpr int kSumGroups = 8;  // of chunks, added side by side

template <class S, int N, int kHeld>
__global__ void __launch_bounds__(kThreads)
    norm_kernel(const S* __restrict__ x, int64_t x_ld, const S* __restrict__ w, float eps, S* __restrict__ y,
                int64_t y_ld, float* __restrict__ rstd, int64_t rows, int width) {
  int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= rows) return;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  x += row * x_ld;
  y += row * y_ld;
  auto column = [&](int v) { return (v * kWarp + lane) * N; };

  Pack<S, N> held[kHeld];
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (column(v) < width) held[v] = Pack<S, N>::load(x + column(v));
  float squares = 0, values[N];
  auto add_squares = [&](const Pack<S, N>& pack) {
    pack.unpack(values);
#pragma unroll
    for (int i = 0; i < N; ++i) squares += values[i] * values[i];
  };
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (column(v) < width) add_squares(held[v]);
  for (int c = column(kHeld); c < width; c += kWarp * N) add_squares(Pack<S, N>::load(x + c));

  float r = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
  auto write = [&](int c, const Pack<S, N>& pack) {
    float weight[N];
    load_floats<S, N>(w + c, weight);
    pack.unpack(values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = values[i] * r * weight[i];
    store_floats<S, N>(y + c, values);
  };
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (column(v) < width) write(column(v), held[v]);
  for (int c = column(kHeld); c < width; c += kWarp * N) write(c, Pack<S, N>::load(x + c));
  if (lane == 0) rstd[row] = r;
}

// dx += rstd (g - x rstd^2 mean(g x)), g = dy w.
template <class S, int N, int kHeld>
__global__ void __launch_bounds__(kThreads)
    norm_dx_kernel(const S* __restrict__ dy, int64_t dy_ld, const S* __restrict__ x, int64_t x_ld,
                   const S* __restrict__ w, const float* __restrict__ rstd, S* __restrict__ dx, int64_t dx_ld,
                   int64_t rows, int width) {
  int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= rows) return;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  dy += row * dy_ld;
  x += row * x_ld;
  dx += row * dx_ld;
  auto column = [&](int v) { return (v * kWarp + lane) * N; };

  Pack<S, N> held_dy[kHeld], held_x[kHeld], held_dx[kHeld];
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (column(v) < width) {
      held_dy[v] = Pack<S, N>::load(dy + column(v));
      held_x[v] = Pack<S, N>::load(x + column(v));
    }
  float along = 0, g[N], in[N], weight[N], out[N];
  auto add_product = [&](int c, const Pack<S, N>& dy_pack, const Pack<S, N>& x_pack) {
    dy_pack.unpack(g);
    x_pack.unpack(in);
    load_floats<S, N>(w + c, weight);
#pragma unroll
    for (int i = 0; i < N; ++i) along += g[i] * weight[i] * in[i];
  };
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (column(v) < width) add_product(column(v), held_dy[v], held_x[v]);
  for (int c = column(kHeld); c < width; c += kWarp * N)
    add_product(c, Pack<S, N>::load(dy + c), Pack<S, N>::load(x + c));

#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (column(v) < width) held_dx[v] = Pack<S, N>::load(dx + column(v));
  float r = rstd[row];
  float shrink = r * r * warp_sum(along) / static_cast<float>(width);
  auto write = [&](int c, const Pack<S, N>& dy_pack, const Pack<S, N>& x_pack, const Pack<S, N>& dx_pack) {
    dy_pack.unpack(g);
    x_pack.unpack(in);
    dx_pack.unpack(out);
    load_floats<S, N>(w + c, weight);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] += r * (g[i] * weight[i] - in[i] * shrink);
    store_floats<S, N>(dx + c, out);
  };
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (column(v) < width) write(column(v), held_dy[v], held_x[v], held_dx[v]);
  for (int c = column(kHeld); c < width; c += kWarp * N)
    write(c, Pack<S, N>::load(dy + c), Pack<S, N>::load(x + c), Pack<S, N>::load(dx + c));
}

// partial[chunk][c] = sum over the chunk's rows of dy x rstd.
template <class S, int N>
__global__ void __launch_bounds__(kChunkThreads)
    norm_dw_chunks(const S* __restrict__ dy, int64_t dy_ld, const S* __restrict__ x, int64_t x_ld,
                   const float* __restrict__ rstd, float* __restrict__ partial, int64_t rows, int width) {
  int c = static_cast<int>(blockIdx.y * kChunkThreads + threadIdx.x) * N;
  if (c >= width) return;
  int64_t first = int64_t{blockIdx.x} * kChunkRows;
  int64_t last = min(first + kChunkRows, rows);
  float total[N] = {}, g[N], in[N];
#pragma unroll 4
  for (int64_t t = first; t < last; ++t) {
    load_floats<S, N>(dy + t * dy_ld + c, g);
    load_floats<S, N>(x + t * x_ld + c, in);
    float r = rstd[t];
#pragma unroll
    for (int i = 0; i < N; ++i) total[i] += g[i] * in[i] * r;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) partial[int64_t{blockIdx.x} * width + c + i] = total[i];
}

__global__ void norm_dw_sum(const float* __restrict__ partial, int64_t chunks, int width,
                            float* __restrict__ dw) {
  __shared__ float group_sums[kSumGroups][kWarp];
  int c = static_cast<int>(blockIdx.x) * kWarp + static_cast<int>(threadIdx.x);
  int64_t per_group = (chunks + kSumGroups - 1) / kSumGroups;
  int64_t first = threadIdx.y * per_group, last = min(first + per_group, chunks);
  float total = 0;
  if (c < width)
    for (int64_t i = first; i < last; ++i) total += partial[i * width + c];
  group_sums[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || c >= width) return;
  float sum = dw[c];
  for (int group = 0; group < kSumGroups; ++group) sum += group_sums[group][threadIdx.x];
  dw[c] = sum;
}

unsigned blocks_for(int64_t rows) {
  return static_cast<unsigned>((rows + kRowsPerBlock - 1) / kRowsPerBlock);
}

// Calls f with the number of vectors a lane holds: enough for the row, up to kMost.
template <int N, int kMost, class F>
void with_held(int width, F&& f) {
  int needed = (width + kWarp * N - 1) / (kWarp * N);
  if (N == 1 || needed <= 4)
    f(std::integral_constant<int, 4>{});
  else if (kMost == 8 || needed <= 8)
    f(std::integral_constant<int, 8>{});
  else
    f(std::integral_constant<int, kMost>{});
}

template <class S>
const S* typed(const Matrix& x) {
  return static_cast<const S*>(x.data);
}

}  // namespace

void norm(cudaStream_t stream, const Matrix& x, const void* w, float eps, const Matrix& y, float* rstd) {
  if (x.rows == 0) return;
  int width = static_cast<int>(x.cols);
  with_type(x.type, [&](auto type) {
    using S = typename decltype(type)::type;
    bool vectors = rows_on_16_bytes(x) && rows_on_16_bytes(y) && on_16_bytes(w) &&
                   width % static_cast<int>(16 / sizeof(S)) == 0;
    with_width<S>(vectors, [&](auto n) {
      with_held<n(), 16>(width, [&](auto held) {
        norm_kernel<S, n(), held()>
            <<<blocks_for(x.rows), kThreads, 0, stream>>>(typed<S>(x), x.ld, static_cast<const S*>(w), eps,
                                                          static_cast<S*>(y.data), y.ld, rstd, x.rows, width);
      });
    });
  });
}

void norm_dx(cudaStream_t stream, const Matrix& dy, const Matrix& x, const void* w, const float* rstd,
             const Matrix& dx) {
  if (x.rows == 0) return;
  int width = static_cast<int>(x.cols);
  with_type(x.type, [&](auto type) {
    using S = typename decltype(type)::type;
    bool vectors = rows_on_16_bytes(dy) && rows_on_16_bytes(x) && rows_on_16_bytes(dx) && on_16_bytes(w) &&
                   width % static_cast<int>(16 / sizeof(S)) == 0;
    with_width<S>(vectors, [&](auto n) {
      with_held<n(), 8>(width, [&](auto held) {
        norm_dx_kernel<S, n(), held()><<<blocks_for(x.rows), kThreads, 0, stream>>>(
            typed<S>(dy), dy.ld, typed<S>(x), x.ld, static_cast<const S*>(w), rstd, static_cast<S*>(dx.data),
            dx.ld, x.rows, width);
      });
    });
  });
}

namespace {

int64_t chunks_of(int64_t rows) {
  return (rows + kChunkRows - 1) / kChunkRows;
}

}  // namespace

size_t norm_dw_scratch(int64_t rows, int64_t width) {
  return static_cast<size_t>(chunks_of(rows) * width) * sizeof(float);
}

void norm_dw(cudaStream_t stream, const Matrix& dy, const Matrix& x, const float* rstd, float* dw,
             void* scratch) {
  if (x.rows == 0 || x.cols == 0) return;
  int width = static_cast<int>(x.cols);
  auto chunks = static_cast<unsigned>(chunks_of(x.rows));
  auto* partial = static_cast<float*>(scratch);
  with_type(x.type, [&](auto type) {
    using S = typename decltype(type)::type;
    bool vectors =
        rows_on_16_bytes(dy) && rows_on_16_bytes(x) && width % static_cast<int>(16 / sizeof(S)) == 0;
    with_width<S>(vectors, [&](auto n) {
      auto tiles = static_cast<unsigned>((width / n() + kChunkThreads - 1) / kChunkThreads);
      norm_dw_chunks<S, n()><<<dim3(chunks, tiles), kChunkThreads, 0, stream>>>(
          typed<S>(dy), dy.ld, typed<S>(x), x.ld, rstd, partial, x.rows, width);
    });
  });
  auto blocks = static_cast<unsigned>((width + kWarp - 1) / kWarp);
  norm_dw_sum<<<blocks, dim3(kWarp, kSumGroups), 0, stream>>>(partial, chunks, width, dw);
}

}  // namespace llmft::cuda
